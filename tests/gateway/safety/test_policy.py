"""The operator's file: what it may say, and what every slip in it is answered with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from gateway.cli import app
from gateway.config import load
from gateway.doctor import safety_policy
from gateway.safety.policy import Policy, Rule
from gateway.safety.policy_file import read_policy

GOOD = """
lookahead: 1
rules:
  - name: rude
    words: [Damn!, "go to HELL"]
    do: replace
    sound: sorry.wav
    tenants: [acme*]
  - {name: card, pattern: '(\\d ?){13,16}', do: hang-up, personas: ["read*", ""]}
"""
RULE = "rules:\n  - {name: rude, words: [damn], do: cut}\n"


def written(folder: Path, text: str) -> Path:
    soundfile.write(folder / "sorry.wav", np.zeros(1_600, np.int16), 8_000)
    (folder / "p.yaml").write_text(text)
    return folder / "p.yaml"


def test_a_whole_policy(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    assert read_policy(file) == Policy(
        (
            Rule(
                "rude", "replace", (" damn ", " go to hell "), "", (), ("acme*",), str(tmp_path / "sorry.wav")
            ),
            Rule("card", "hang-up", (), r"(\d ?){13,16}", ("read*", "")),
        ),
        1,
    )
    rude, card = read_policy(file).rules
    assert rude.is_for("any", "acme-2") and not rude.is_for("any", "") and not rude.is_for("acme", "b")
    assert card.is_for("read-back", "x") and card.is_for("", "") and not card.is_for("count", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: [", "is no YAML"),
        ("- a\n- b\n", "expected `rules:`"),
        ("", "expected `rules:`"),
        ("ruels: []\n", "has 'ruels': expected rules, lookahead"),
        ("lookahead: 1\n", "rules = None: expected a list of rules"),
        ("rules: []\n", "rules = []: expected a list of rules"),
        (f"lookahead: 3\n{RULE}", "lookahead = 3: expected 0, 1 or 2"),
        (f"lookahead: true\n{RULE}", "lookahead = True: expected 0, 1 or 2"),
        ("rules: [damn]\n", "rule 1 = 'damn': expected name, do and words"),
        ("rules: [{words: [damn], do: cut}]\n", "rule 1: name = None: expected up to 40 small letters"),
        ("rules: [{name: My Rule, words: [damn], do: cut}]\n", "name = 'My Rule': expected up to 40 small"),
        (RULE + "  - {name: rude, words: [x], do: cut}\n", "rule 2: name = 'rude' is an earlier rule's"),
        ("rules: [{name: r, words: [x], do: cut, word: y}]\n", "rule r has 'word': expected name, do, words"),
        ("rules: [{name: r, words: [x], do: mute}]\n", "rule r: do = 'mute': expected report, cut, replace or"),
        ("rules: [{name: r, words: [x]}]\n", "rule r: do = None: expected report"),
        ("rules: [{name: r, do: cut}]\n", "rule r: expected either words or pattern"),
        ("rules: [{name: r, words: [x], pattern: x, do: cut}]\n", "rule r: expected either words or pattern"),
        ("rules: [{name: r, words: damn, do: cut}]\n", "rule r: words = 'damn': expected a list"),
        ("rules: [{name: r, words: [no], do: cut}]\n", "words has False, which YAML takes for no text: put it in"),
        ("rules: [{name: r, words: [7], do: cut}]\n", "words has 7, which YAML takes for no text"),
        ("rules: [{name: r, words: ['!?'], do: cut}]\n", "words has '!?', which has no letter or digit"),
        (f"rules: [{{name: r, words: [{'x' * 300}], do: cut}}]\n", "a phrase of 302 letters: 200 at most"),
        ("rules: [{name: r, pattern: '(a', do: cut}]\n", "pattern = '(a' is no RE2 (missing )"),
        ("rules: [{name: r, pattern: 'a(?=b)', do: cut}]\n", "is no RE2 (invalid perl operator"),
        ("rules: [{name: r, pattern: 'a*', do: cut}]\n", "pattern = 'a*' is met by a blank: every turn"),
        ("rules: [{name: r, pattern: 'Damn', do: cut}]\n", "pattern = 'Damn' has capitals: text is in small"),
        ("rules: [{name: r, pattern: 7, do: cut}]\n", "pattern = 7: expected RE2"),
        ("rules: [{name: r, words: [x], do: replace}]\n", "sound = '': replace needs the WAV or FLAC file"),
        ("rules: [{name: r, words: [x], do: replace, sound: no.wav}]\n", "no.wav cannot be read as WAV"),
        ("rules: [{name: r, words: [x], do: cut, sound: sorry.wav}]\n", "sound = 'sorry.wav' is of no use with"),
        ("rules: [{name: r, words: [x], do: cut, personas: read}]\n", "rule r: personas = 'read': expected a list"),
        ("rules: [{name: r, words: [x], do: cut, do: report}]\n", "'do' is there twice"),
        ("x: &a [*a]\n" + RULE, "is no YAML (an alias (*), which is not taken here"),
        ("? [a]\n: b\n", "is no YAML (expected a word before :"),
        ("rules: [{name: r, words: ['\ud83d'], do: cut}]\n", "is no text in UTF-8"),
    ],
)  # fmt: skip
def test_a_slip_is_refused_in_words(tmp_path: Path, text: str, told: str) -> None:
    file = written(tmp_path, "")
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError) as refused:
        read_policy(file)
    assert str(file) in str(refused.value) and told in str(refused.value)


def test_escapes_are_no_capitals(tmp_path: Path) -> None:
    file = written(tmp_path, "rules: [{name: r, pattern: '(?P<N>\\D\\p{L}[[:alpha:]]x)', do: report}]\n")
    assert read_policy(file).rules[0].do == "report"


def test_the_start_is_refused(tmp_path: Path) -> None:
    good, bad = written(tmp_path, GOOD), tmp_path / "none.yaml"
    with pytest.raises(ValueError, match=f"safety_policy: {bad} cannot be read .No such file"):
        load(safety_policy=str(bad))
    with pytest.raises(
        ValueError, match="tenants has 'acme\\*', which is none of the tenants: there are none"
    ):
        load(safety_policy=str(good))
    loaded = load(safety_policy=str(good), tenants={"acme": {}})
    options = loaded.safety_options("read-back")
    assert options is not None and options.policy.lookahead == 1 and not options.moderated
    assert safety_policy(loaded).found == "2 rules, heard 200 ms later"
    assert load().safety_options("") is None
    with pytest.raises(ValueError, match="moderation_model and moderation_key are of no use"):
        load(moderation_model="omni")
    with pytest.raises(ValueError, match="expected https://HOST/v1/moderations"):
        load(moderation_url="moderate.example")
    moderated = load(moderation_url="http://127.0.0.1:9/v1/moderations").safety_options("")
    assert moderated is not None and moderated.moderated and not moderated.policy.rules
    for url, good in (
        ("http://127.0.0.1:9/m", True),
        ("https://a.example/m", True),
        ("http://a.example/m", False),
    ):
        assert safety_policy(load(moderation_url=url)).good is good


def test_a_text_is_checked_at_the_command_line(tmp_path: Path) -> None:
    file = str(written(tmp_path, GOOD))

    def check(*arguments: str) -> tuple[int, str]:
        ran = CliRunner().invoke(app, ["policy", "check", *arguments])
        return ran.exit_code, ran.output

    assert check(file) == (0, "2 rules, 1 of them for this call; lookahead: 1 turns\n")
    text = ("--text", "go to", "--text", " hell")
    assert check(file, *text)[0] == 0 and "no rule is met" in check(file, *text)[1]
    status, told = check(file, *text, "--tenant", "acme")
    assert status == 1 and "turn 2: rule rude: replace (its words begin in turn 0)" in told
    assert check()[0] == 2 and check(str(tmp_path / "none"))[0] == 2
