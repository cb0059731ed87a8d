"""What is personal is found wherever it stands; what only looks like a path stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codir.config.yaml_text import read_yaml
from codir.deploy.privacy import Redactor
from codir.errors import RunError

HOME = Path("/home/ann")


def redactor(host: str = "ann-pc") -> Redactor:
    return Redactor(Path("/home/ann/runs/student"), home=HOME, host=host)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/ann/runs/student", "student"),
        ("/home/ann/runs/student/model.safetensors", "student/model.safetensors"),
        ("/home/ann/runs/teacher", "<local path>/teacher"),
        ("/home/ann", "<local path>"),
        ("/home", "<local path>"),
        ("/home/bob", "<local path>"),
        ("/Users/bob", "<local path>"),
        ("/data/ann-private", "<local path>"),
        ("/data/glue/MRPC/", "<local path>/MRPC"),
        (r"C:\Users\Ann\data\train.csv", "<local path>/train.csv"),
        (r"C:\Users\Bob", "<local path>"),
        (r"\\server\share\x.csv", "<local path>/x.csv"),
    ],
)
def test_what_stands_for_a_path(path: str, expected: str) -> None:
    assert redactor().path(path) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from /home/ann/a/b.csv.", "from <local path>/b.csv."),
        ("a=/data/x/y,b=/data/z/w", "a=<local path>/y,b=<local path>/w"),
        ("see file:///data/x/y", "see file://<local path>/y"),
        (r"in D:\data\x.csv now", "in <local path>/x.csv now"),
        ("~bob/data/x", "<local path>/x"),
        ("on ann-pc and ann-pc.example.org", "on <host> and <host>"),
        ("key hf_abcdefghijklmnopqrst", "key <token>"),
        ("mysql://ann:pw@db/x", "mysql://<token>@db/x"),
        ("home is /home/ann", "home is <local path>"),
    ],
)
def test_in_prose(text: str, expected: str) -> None:
    found = redactor()
    assert json.loads(found.json("f.json", json.dumps({"a": text})))["a"] == expected
    assert found.redactions
    # nothing is left to be found a second time
    assert json.loads(redactor().json("f.json", json.dumps({"a": expected})))["a"] == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/a/b",
        "ms/seq and/or n/a",
        "2026/11/21",
        "</s> <pad/>",
        "/usr/lib/python3/x.py",
        "runs/teacher",
        "./runs/x",
        "~/data/x",
        "hf_short",
        "ann-pcs",
        "/",
        "/x",
        "nyu-mll/glue",
        "Linux-6.1.0-x86_64-with-glibc2.36",
    ],
)
def test_what_stays(text: str) -> None:
    found = redactor()
    raw = json.dumps({"a": text})
    assert found.json("f.json", raw) == raw
    assert not found.redactions


def test_a_host_that_is_a_common_word_is_left_alone() -> None:
    assert redactor("model").json("f.json", '{"a": "the model"}') == '{"a": "the model"}'


def test_a_path_with_spaces_is_found_whole_and_then_everywhere() -> None:
    found = redactor()
    settings = "data:\n  train: /srv/my data/train set.csv\n  epochs: 1e-3\n  name: 'no'\n"
    clean = found.yaml("codir.yaml", settings)
    before, _ = read_yaml(settings, "")
    after, _ = read_yaml(clean, "")
    assert after == {"data": {**before["data"], "train": "<local path>/train set.csv"}}
    assert found.redactions[0].line == 2
    card = f"""From /srv/my data/train set.csv, again /srv/my data/train set.csv.

```yaml
{settings.rstrip()}
```

`/srv/my data/train set.csv` is code.
"""
    text = found.markdown("README.md", card)
    assert "/srv" not in text
    assert r"From \<local path\>/train set.csv, again \<local path\>/train set.csv." in text
    assert f"```yaml\n{clean.rstrip()}\n```" in text
    assert "`<local path>/train set.csv` is code." in text


def test_escaped_paths_in_a_card_are_found() -> None:
    found = redactor()
    found.yaml("codir.yaml", "train: /srv/my_data/a_b.csv\n")
    assert (
        found.markdown("README.md", r"- source: /srv/my\_data/a\_b.csv")
        == r"- source: \<local path\>/a_b.csv"
    )
    # also one that no setting names
    assert "my" not in found.markdown("README.md", r"- see /srv/my\_other/c\_d.csv")


def test_a_command_line() -> None:
    found = redactor()
    command = "codir distill --teacher '/srv/my teacher' --teachers mrpc=/srv/a/b,cola=/srv/c/d --epochs 3 --note 'x y'"
    clean = json.loads(found.json("environment.json", json.dumps({"command": command})))["command"]
    assert clean == (
        "codir distill --teacher '<local path>/my teacher' --teachers 'mrpc=<local path>/b,cola=<local path>/d' "
        "--epochs 3 --note 'x y'"
    )
    assert found.markdown("README.md", f"```console\n{command}\n```") == f"```console\n{clean}\n```"
    broken = "codir distill --note 'open /srv/a/b"
    clean = json.loads(found.json("environment.json", json.dumps({"command": broken})))["command"]
    assert clean == "codir distill --note 'open <local path>/b"


def test_code_and_prose_in_markdown() -> None:
    found = redactor()
    text = "/srv/a/b and `/srv/a/b`\n\n````md\n```\n/srv/a/b\n```\n````\n\n/srv/a/b"
    assert found.markdown("README.md", text) == (
        "\\<local path\\>/b and `<local path>/b`\n\n````md\n```\n<local path>/b\n```\n````\n\n\\<local path\\>/b"
    )


def test_what_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(RunError, match=r"x\.md, line 2, names your home folder"):
        redactor().check("x.md", "a\nx/home/ann/y")
    redactor().check("x.md", "/home/anna and /home/ann-b")


def test_a_page_says_it_without_brackets() -> None:
    found = redactor()
    found.yaml("codir.yaml", "train: /srv/it's here/a.csv\n")
    page = '<p>/srv/it&#x27;s here/a.csv</p><script>x = "/srv/it\'s here/a.csv"; y = /a/b/g</script>'
    assert found.literal("report.html", page) == (
        '<p>(local path)/a.csv</p><script>x = "(local path)/a.csv"; y = /a/b/g</script>'
    )
