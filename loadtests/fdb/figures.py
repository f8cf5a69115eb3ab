"""The figures of each subset, from what lies in its folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from loadtests.fdb import scores
from loadtests.fdb.layout import PROVIDER, Sample, Task, Version, Word, judged
from loadtests.fdb.speech import speech_in

Figures = dict[str, float | int | None]
People = Mapping[str, Sequence[float]]
"""ID -> distribution of backchannels (`icc_gt_distribution.json`)."""


def of_all(samples: Sequence[Sample], people: People) -> dict[str, Figures]:
    """Of each subset, in their order."""
    subsets: dict[str, list[Sample]] = {}
    for sample in samples:
        subsets.setdefault(sample.subset, []).append(sample)
    return {subset: of_subset(some, people) for subset, some in subsets.items()}


def of_subset(samples: Sequence[Sample], people: People) -> Figures:
    """Samples of one task. What has no answer is counted and left out."""
    heard = [sample for sample in samples if (sample.folder / sample.sounds[0][1]).is_file()]
    task, version = samples[0].task, samples[0].version
    figures: Figures = {"samples": len(samples), "unanswered": len(samples) - len(heard)}
    if version is Version.V3:
        return figures | tool_use(heard)
    if version is Version.V15:
        return figures | overlap(heard)
    if task == Task.BACKCHANNEL:
        return figures | backchannels(heard, people)
    return figures | turns(heard)


def turns(samples: Sequence[Sample]) -> Figures:
    """Version 1: pause handling, smooth turn taking, user interruption."""
    known = [(sample, words) for sample in samples if (words := _words(sample)) is not None]
    figures: Figures = {
        "without_words": len(samples) - len(known),
        "tor": _share([scores.took_turn(words) for _, words in known]),
    }
    if not known or known[0][0].task == Task.PAUSE:
        return figures
    ends_s = [sample.event[sample.task == Task.INTERRUPTION] for sample, _ in known]
    latencies = [
        latency
        for (_, words), end_s in zip(known, ends_s, strict=True)
        if (latency := scores.latency_s(words, end_s)) is not None
    ]
    return figures | {"latency_mean_s": _mean(latencies), "latency_p50_s": _median(latencies)}


def backchannels(samples: Sequence[Sample], people: People) -> Figures:
    """Version 1. No distance where nobody's distribution is known."""
    found = []
    for sample in samples:
        speech, seconds = speech_in(sample.folder / "output.wav")
        words = _words(sample) or ()
        found.append(scores.backchannels(speech, words, seconds, people.get(sample.name)))
    known = [one.jsd for one in found if one.jsd is not None] if people else []
    return {
        "tor": _share([one.took_turn for one in found]),
        "frequency": _mean([one.frequency for one in found]),
        "jsd": _mean(known),
        "without_people": len(found) - len(known),
    }


def overlap(samples: Sequence[Sample]) -> Figures:
    """Version 1.5. Stop and response latency by its script, over all times; beside it how long the model spoke on
    after the overlap had begun, and how long without one (`clean_`)."""
    stops: list[float] = []
    answers: list[float] = []
    on: dict[str, list[float | None]] = {"": [], "clean_": []}
    for sample in samples:
        user = scores.merged(speech_in(sample.folder / "input.wav")[0], scores.USER_GAP_S)
        model = scores.merged(speech_in(sample.folder / "output.wav")[0], scores.MODEL_GAP_S)
        stops += [end_s - start_s for start_s, end_s in scores.overlaps(user, model)]
        answers += [end_s - start_s for start_s, end_s in scores.response_gaps(user, model)]
        on[""].append(scores.stopped_s(model, sample.event[0]))
        clean = sample.folder / "clean_output.wav"
        if clean.is_file():
            undisturbed = scores.merged(speech_in(clean)[0], scores.MODEL_GAP_S)
            on["clean_"].append(scores.stopped_s(undisturbed, sample.event[0]))
    return {
        "stop_latency_mean_s": _mean(stops),
        "response_latency_mean_s": _mean(answers),
        "speaking": _share([value is not None for value in on[""]]),
        "spoke_on_p50_s": _median([value for value in on[""] if value is not None]),
        "clean_spoke_on_p50_s": _median([value for value in on["clean_"] if value is not None]),
    }


def tool_use(samples: Sequence[Sample]) -> Figures:
    """Version 3, what needs no judge: whether it answers, when, and whether before the user has ended."""
    results = [sample.read(f"result_{PROVIDER}.json") for sample in samples]
    first = [result["perceived_total_latency"] for result in results]
    calls = [result["actual_tool_calls"] for result in results]
    tool = [
        some[0]["timestamp_start"] - result["user_speech_end_rel"]
        for some, result in zip(calls, results, strict=True)
        if some
    ]
    return {
        "turn_take": _share([value is not None for value in first]),
        "first_response_p50_s": _median([value for value in first if value is not None and value >= 0]),
        "spoke_before_end": _share([value is not None and value < 0 for value in first]),
        "tool_calls": sum(map(len, calls)),
        "tool_call_p50_s": _median(tool),
    }


def result_of(
    sample: Sample, words: Sequence[Word] | None, told: Sequence[tuple[float, Mapping[str, Any]]]
) -> dict[str, Any]:
    """What `result_{provider}.json` of version 3 has, as far as it is known without a recogniser of the input.

    A task that the model hands off is a tool call: the browser is told when.
    """
    metadata = sample.read("metadata.json")
    user, input_s = speech_in(sample.folder / "input.wav")
    model, output_s = speech_in(sample.folder / sample.sounds[0][1])
    end_s = scores.merged(user, 2.0)[0][1] if user else 0.0
    first_s = words[0].start_s if words else (model[0][0] if model and words is None else None)
    asked = [(at_s, one) for at_s, one in told if one.get("type") == "task" and one.get("state") == "asked"]
    example, _, speaker = sample.name.rpartition("_")
    return {
        "pid": speaker,
        "example_id": example,
        "category": metadata.get("domain", ""),
        "title": metadata.get("title", ""),
        "provider": PROVIDER,
        "input_transcript": "",
        "input_asr_chunks": [],
        "user_speech_end_rel": round(end_s, 3),
        "latency": {
            "input_duration_s": round(input_s, 3),
            "output_duration_s": round(output_s, 3),
            "first_speech_s": round(model[0][0] if model else output_s, 3),
        },
        "transcript": " ".join(word.text for word in words or ()),
        "asr_chunks": [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words or ()],
        "perceived_total_latency": None if first_s is None else round(first_s - end_s, 3),
        "audio_agent_speech_start": first_s,
        "actual_tool_calls": [
            {"function": "delegate", "args": {"request": one.get("request", "")}, "timestamp_start": at_s}
            for at_s, one in asked
        ],
        "status": "completed",
    }


def _words(sample: Sample) -> tuple[Word, ...] | None:
    words = sample.words()
    return None if words is None else judged(sample, words)


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 3) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return _figure(np.mean, values)


def _median(values: Sequence[float]) -> float | None:
    return _figure(np.median, values)


def _figure(of: Callable[[Any], Any], values: Sequence[float]) -> float | None:
    return round(float(of(values)), 3) if values else None
