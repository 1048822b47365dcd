"""The guides of the documentation work from top to bottom, in an empty directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamatelemetry.llama.embedded import find_demo_model
from tests.support.guides import GUIDES, ROOT, read_blocks, run_guide

_HEADINGS = re.compile(r"^(Calls|Metrics|Where the time of the calls went)\b", re.MULTILINE)
PAGE = """
```python title="app.py"
print(1)
```

<!-- test: skip (needs a GPU) -->
```sh
python app.py
```

```text
1
```
"""


def test_read_blocks_finds_titles_directives_and_lines():
    file, command, output = read_blocks(PAGE)
    assert (file.language, file.title, file.code) == ("python", "app.py", "print(1)\n")
    assert (command.language, command.title, command.is_skipped) == ("sh", None, True)
    assert (output.language, output.is_skipped) == ("text", False)
    assert "".join(PAGE.splitlines(keepends=True)[slice(*output.lines)]) == "1\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.needs("xllamacpp")
@pytest.mark.parametrize("page", GUIDES)
def test_guide_runs_and_prints_what_page_shows(page: str, tmp_path: Path):
    """Texts and figures differ from run to run, so only the headings of the outputs are compared."""
    blocks = read_blocks((ROOT / page).read_text(encoding="utf-8"))
    (tmp_path / "model.gguf").symlink_to(find_demo_model())
    outputs = run_guide(page, tmp_path)
    assert outputs
    for number, output in outputs.items():
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        if after is not None and after.language == "text":
            missing = set(_HEADINGS.findall(after.code)) - set(_HEADINGS.findall(output))
            assert not missing, output
