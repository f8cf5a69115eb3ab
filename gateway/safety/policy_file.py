"""The operator's policy: a YAML file as typed rules. What cannot be meant is refused in words that name the file,
the rule, the value and what was expected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from gateway.recording.announcements import read_announcement
from gateway.safety.normal import normalise
from gateway.safety.policy import GRAVITY, Policy, Rule, compiled

MOST_BYTES: Final = 1 << 20
MOST_RULES: Final = 500
MOST_WORDS: Final = 5_000
MOST_PATTERNS: Final = 100
"""Of all rules together; each pattern takes some 5 us a reply."""
MOST_LETTERS: Final = 200
"""Of a phrase, and of a pattern."""
MOST_LOOKAHEAD: Final = 2
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_ESCAPES: Final = re.compile(r"\\[pP]\{\^?\w+\}|\\.|\[\[:\^?\w+:\]\]|\(\?P?<\w+>|\(\?[a-zA-Z-]+[:)]")


def read_policy(file: Path) -> Policy:
    """`ValueError` in words for the operator."""
    given = _yaml_of(file)
    _only(given, ("rules", "lookahead"), f"{file}")
    lookahead = given.get("lookahead", 0)
    if type(lookahead) is not int or not 0 <= lookahead <= MOST_LOOKAHEAD:
        raise ValueError(
            f"{file}: lookahead = {lookahead!r}: expected 0, 1 or {MOST_LOOKAHEAD} (turns of 200 ms)"
        )
    listed = given.get("rules")
    if not isinstance(listed, list) or not listed:
        raise ValueError(
            f"{file}: rules = {listed!r}: expected a list of rules, each with name, do and words"
        )
    if len(listed) > MOST_RULES:
        raise ValueError(f"{file}: {len(listed)} rules: {MOST_RULES} at most")
    rules: dict[str, Rule] = {}
    for at, entry in enumerate(listed, 1):
        rule = _rule(entry, f"{file}: rule {at}", file)
        if rule.name in rules:
            raise ValueError(f"{file}: rule {at}: name = {rule.name!r} is an earlier rule's: give it its own")
        rules[rule.name] = rule
    words = sum(len(rule.words) for rule in rules.values())
    if words > MOST_WORDS:
        raise ValueError(f"{file}: {words} words in all rules: {MOST_WORDS} at most")
    patterns = sum(bool(rule.pattern) for rule in rules.values())
    if patterns > MOST_PATTERNS:
        raise ValueError(f"{file}: {patterns} patterns: {MOST_PATTERNS} at most; several fit into one by |")
    return Policy(tuple(rules.values()), lookahead)


def _rule(entry: Any, where: str, file: Path) -> Rule:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} = {entry!r}: expected name, do and words or pattern")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: name = {name!r}: expected up to 40 small letters, digits and ._-")
    where = f"{file}: rule {name}"
    _only(entry, ("name", "do", "words", "pattern", "personas", "tenants", "sound"), where)
    do = entry.get("do")
    if do not in GRAVITY:
        raise ValueError(f"{where}: do = {do!r}: expected {', '.join(GRAVITY[:-1])} or {GRAVITY[-1]}")
    if ("words" in entry) == ("pattern" in entry):
        raise ValueError(f"{where}: expected either words or pattern, and not both")
    words = tuple(_phrase(word, where) for word in _list(entry, "words", where))
    pattern = _pattern(entry["pattern"], where) if "pattern" in entry else ""
    sound = _sound(entry.get("sound", ""), do, where, file)
    personas, tenants = (_list(entry, key, where) for key in ("personas", "tenants"))
    return Rule(name, do, words, pattern, personas, tenants, sound)


def _list(entry: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Of texts; none where it is not given."""
    if key not in entry:
        return ()
    listed = entry[key]
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{where}: {key} = {listed!r}: expected a list, such as [one, two]")
    for text in listed:
        if not isinstance(text, str):
            raise ValueError(f"{where}: {key} has {text!r}, which YAML takes for no text: put it in quotes")
    return tuple(listed)


def _phrase(word: str, where: str) -> str:
    phrase = normalise(f"{word} ")
    if not phrase.strip():
        raise ValueError(f"{where}: words has {word!r}, which has no letter or digit: nothing would meet it")
    if len(phrase) > MOST_LETTERS:
        raise ValueError(f"{where}: words has a phrase of {len(phrase)} letters: {MOST_LETTERS} at most")
    return phrase


def _pattern(pattern: Any, where: str) -> str:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MOST_LETTERS:
        raise ValueError(
            f"{where}: pattern = {pattern!r}: expected RE2 of up to {MOST_LETTERS} letters, in quotes"
        )
    try:
        found = compiled(pattern).search(" ")
    except ValueError as wrong:
        raise ValueError(
            f"{where}: pattern = {pattern!r} is no RE2 ({wrong}): see its syntax; it has no look-around and no \\1"
        ) from None
    if found is not None:
        raise ValueError(f"{where}: pattern = {pattern!r} is met by a blank: every turn would meet it")
    if re.search("[A-Z]", _ESCAPES.sub("", pattern)):
        raise ValueError(
            f"{where}: pattern = {pattern!r} has capitals: text is in small letters when it is looked at"
        )
    return pattern


def _sound(sound: Any, do: str, where: str, file: Path) -> str:
    if do != "replace":
        if sound:
            raise ValueError(f"{where}: sound = {sound!r} is of no use with do = {do!r}: it is for replace")
        return ""
    if not isinstance(sound, str) or not sound:
        raise ValueError(
            f"{where}: sound = {sound!r}: replace needs the WAV or FLAC file that is heard instead"
        )
    path = file.parent / sound
    try:
        read_announcement(path, 8_000)
    except ValueError as wrong:
        raise ValueError(f"{where}: sound: {wrong}") from None
    return str(path.absolute())


def _only(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"{where} has {key!r}: expected {', '.join(known)}")


# -- YAML


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
    """A key that is there twice is a slip, which YAML does not mind; of aliases a small file makes a huge one."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            at = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*), which is not taken here", at)
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a word before :", key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value!r} is there twice", key.start_mark
            )
        seen.add(key.value)
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _yaml_of(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"{file} has {file.stat().st_size} bytes: {MOST_BYTES} at most")
        given = yaml.load(file.read_text(), _Loader)
    except OSError as wrong:
        raise ValueError(f"{file} cannot be read ({wrong.strerror}): give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text in UTF-8: give the path of a YAML file") from None
    except (yaml.YAMLError, RecursionError) as wrong:
        told = " ".join(str(wrong).split()) or type(wrong).__name__
        raise ValueError(f"{file} is no YAML ({told})") from None
    if not isinstance(given, dict):
        raise ValueError(f"{file}: expected `rules:` and a list of them")
    return given
