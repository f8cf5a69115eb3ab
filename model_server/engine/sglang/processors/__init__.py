"""Processors that SGLang finds by `SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE`."""
