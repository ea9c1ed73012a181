"""Every line of the threat model names a test, and the test exists."""

import re

from tests.docs.pages import ROOT


PAGE = ROOT / "docs" / "threat-model.md"


def test_every_line_of_the_threat_model_has_a_test():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^def (test_\w+)\(", tests, re.M))
    lines = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| (?!---|who |attack )", line)
    ]
    assert len(lines) > 30
    for line in lines:
        named = re.fullmatch(r".*\| `(test_\w+)` \|", line)
        assert named and named[1] in known, line
