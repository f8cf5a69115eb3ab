"""The model that SGLang finds by `SGLANG_EXTERNAL_MODEL_PACKAGE` with `trunk = "inkling"`, in place of its own."""
