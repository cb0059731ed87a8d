"""The card as it is published: the one in the folder, under the repository's name, with what was measured since."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codir import markdown
from codir.deploy.publish_files import CARD, Source
from codir.errors import CodirError, ConfigError, RunError
from codir.markdown import code, fence, inline
from codir.runs.card_again import card_again
from codir.runs.card_metadata import check_metadata, exported_metadata, front_matter_text, split_card
from codir.runs.lineage import hub_ancestor
from codir.storage import human_bytes

# What most models on the Hub have; another one is passed on with a note, for the Hub to judge.
LICENSES = (
    "apache-2.0",
    "mit",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "gpl-3.0",
    "lgpl-3.0",
    "agpl-3.0",
    "mpl-2.0",
    "openrail",
    "bigscience-openrail-m",
    "llama3",
    "gemma",
    "unlicense",
    "other",
    "unknown",
)


def read_card(source: Source, regenerate: bool, notes: list[str]) -> str:
    """Returns the folder's card; one that is missing, or not wanted as it is, is written anew.

    Args:
        source: the folder.
        regenerate: write the card anew although there is one.
        notes: gets a sentence for each decision the user should know of.

    Raises:
        RunError: the card is not UTF-8, or cannot be written anew.
    """
    path = source.folder / CARD
    if source.manifest is not None:
        if regenerate:
            raise ConfigError(
                f"{source.folder} is an exported folder: `codir export` writes its card. Leave out --regenerate."
            )
        text = _read(path) if path.is_file() else f"# {inline(source.folder.absolute().name)}\n"
        if not split_card(text, str(path))[0]:
            notes.append("README.md has no front matter: it gets that of the export.")
            front = exported_metadata(source.folder.absolute().name, source.manifest, source.folder)
            text = f"{front_matter_text(front)}\n\n{text}"
        return text
    if regenerate or not path.is_file():
        notes.append("README.md is " + ("written anew." if path.is_file() else "missing and written anew."))
        return card_again(source.folder)
    text = _read(path)
    if not split_card(text, str(path))[0]:
        notes.append("README.md has no front matter: it gets what the run knows.")
        values, _ = split_card(card_again(source.folder), str(path))
        text = f"{front_matter_text(values)}\n\n{text}"
    return text


def finish_card(
    text: str,
    source: Source,
    repo: str,
    exported: Mapping[str, Source],
    *,
    license: str | None = None,
    language: Sequence[str] = (),
    notes: list[str],
) -> tuple[str, dict[str, Any]]:
    """Returns the card under the repository's name, with licence, language, latency and formats; and its metadata.

    Args:
        text: what `read_card` returned.
        source: the folder.
        repo: `owner/name`.
        exported: exported folders by the place they get in the repository.
        license: the Hub's identifier; wins over the card's.
        language: ISO 639 codes; win over the card's.
        notes: gets a sentence for each decision the user should know of.

    Raises:
        RunError: the front matter is not what the Hub takes, or `latency.json` is damaged.
    """
    place = str(source.folder / CARD)
    before, body = split_card(text, place)
    values = dict(before)
    if license:
        values = {"license": license, **{key: value for key, value in values.items() if key != "license"}}
    if language:
        values = {
            "language": list(language),
            **{key: value for key, value in values.items() if key != "language"},
        }
    check_metadata(values, place)
    _without_local_ids(values, notes)
    _rename(values, source.folder.absolute().name, repo.split("/")[1])
    body = _under_its_name(body, source.folder.absolute().name, repo)
    if (source.folder / "latency.json").is_file() and source.manifest is None:
        body = with_section(body, "latency", _latency(source.folder / "latency.json"))
    if exported:
        body = with_section(body, "formats", formats_section(repo, exported))
    check_metadata(values, place)
    if not values.get("license"):
        notes.append(
            "No licence is given, so nobody else may use the model. Add --license apache-2.0, mit, ..."
        )
    return f"{front_matter_text(values)}\n\n{body}", values


def formats_section(repo: str, exported: Mapping[str, Source]) -> str:
    """Returns the Markdown on exported models that lie beside the main one: what they are and how they were checked."""
    headings = [
        "folder",
        "engine",
        "precision",
        "size",
        "checked against the original",
        "metric before",
        "after",
    ]
    rows = []
    for place, source in exported.items():
        manifest = source.manifest
        assert manifest is not None, "only exported folders are taken"
        before, after = _main(manifest.metrics_before), _main(manifest.metrics_after)
        checks = checks_in_words(manifest.checks) or "-"
        size = human_bytes(manifest.bytes)
        rows.append([f"{place}/", manifest.engine, manifest.precision, size, checks, before, after])
    first = next(iter(exported))
    return "\n\n".join(
        [
            "## Exported formats",
            "Each of these folders predicts by itself; its own README.md says how.",
            markdown.table(headings, rows, left=(True, True, True, False, True, False, False)).rstrip(),
            fence(
                f'hf download {repo} --include "{first}/*" --local-dir model\n'
                f"codir predict model/{first} --input texts.txt --output predictions.jsonl",
                "console",
            ),
        ]
    )


def checks_in_words(checks: Mapping[str, Any]) -> str:
    """Returns the figures of an export's comparison with its source in one line; empty if there are none."""
    parts = []
    inputs = f" of {checks['inputs']:,} inputs" if isinstance(checks.get("inputs"), int) else ""
    if isinstance(checks.get("judged"), str):
        inputs = f" of {checks['judged']}"
    if (agreement := _number(checks, "agreement")) is not None:
        scores = checks.get("answers") == "scores"
        parts.append(f"correlation {agreement:.4f}" if scores else f"same answer for {agreement:.2%}{inputs}")
    if (largest := _number(checks, "largest_difference")) is not None:
        parts.append(f"largest difference of a logit {largest:.2g}")
    return "; ".join(parts)


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def with_section(body: str, name: str, section: str) -> str:
    """Puts a section of ours into a card: in the place of its older version, else before the limits, else last."""
    start, end = f"<!-- codir: {name} -->", f"<!-- /codir: {name} -->"
    block = f"{start}\n\n{section.strip()}\n\n{end}"
    if start in body and end in body.split(start, 1)[1]:
        before, rest = body.split(start, 1)
        return before + block + rest.split(end, 1)[1]
    fenced = False
    lines = body.split("\n")
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        if not fenced and line.strip() == "## Limits":
            return "\n".join([*lines[:number], block, "", *lines[number:]])
    return f"{body.rstrip()}\n\n{block}\n"


def check_license(license: str, notes: list[str]) -> None:
    """Raises `ConfigError` for what cannot be a licence's identifier; one that is rare is noted."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        low = license.strip().lower().replace(" ", "-")
        hint = f" Did you mean {low}?" if low in LICENSES else ""
        raise ConfigError(
            f"--license {license!r}: the Hub's identifiers are small letters, such as {', '.join(LICENSES[:3])}.{hint}"
        )
    if license not in LICENSES:
        notes.append(f"The licence {code(license)} is not one codir knows; the Hub will say whether it does.")


def check_languages(language: str) -> list[str]:
    """Returns the codes in `en` or `en,de`; raises `ConfigError` for what is no ISO 639 code."""
    codes = [part.strip() for part in language.split(",") if part.strip()]
    for each in codes or [""]:
        if not re.fullmatch(r"[a-z]{2,3}|multilingual|code", each):
            raise ConfigError(
                f"--language {each!r}: expected an ISO 639 code of two or three letters, such as en or en,de."
            )
    return codes


def _without_local_ids(values: dict[str, Any], notes: list[str]) -> None:
    """Drops folders named where the Hub wants ids: it would refuse the card, or link to nothing."""
    for key in ("base_model", "datasets"):
        given = values.get(key)
        if given is None:
            continue
        many = given if isinstance(given, list) else [given]
        good = [each for each in many if not _is_local(each, key)]
        if len(good) < len(many):
            notes.append(f"`{key}` in the card named a folder of this machine; it is left out.")
            if good:
                values[key] = good if isinstance(given, list) else good[0]
            else:
                del values[key]
                if key == "base_model":
                    values.pop("base_model_relation", None)


def _is_local(name: str, key: str) -> bool:
    if name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1:
        return True
    return key == "base_model" and hub_ancestor(name) != name


def _rename(values: dict[str, Any], folder: str, name: str) -> None:
    """Calls the model in its results what the repository is called, unless the user has named it otherwise."""
    index = values.get("model-index")
    if isinstance(index, list) and index and isinstance(index[0], dict) and index[0].get("name") == folder:
        values["model-index"] = [{**index[0], "name": name}, *index[1:]]


def _under_its_name(body: str, folder: str, repo: str) -> str:
    """Writes the repository's name where codir's own card has the folder's: in the title and in the code."""
    lines = [
        (f"# {inline(repo.split('/')[1])}", f"# {inline(folder)}"),
        (f"path = {repo!r}", f"path = {folder!r}  # this folder"),
        (f"from_pretrained({repo!r})", f"from_pretrained({folder!r})  # this folder"),
        (f"from_pretrained({repo!r})", f"from_pretrained({folder!r})"),
    ]
    for new, old in lines:
        body = re.sub(rf"(?m)^(.*?){re.escape(old)}$", lambda found, new=new: found[1] + new, body)
    return re.sub(
        rf"(?m)^codir finetune --model '?{re.escape(folder)}'? --task",
        lambda _: f"codir finetune --model {repo} --task",
        body,
    )


def _latency(path: Path) -> str:
    from codir.deploy.latency_table import LatencyResult

    try:
        table = LatencyResult.from_json(json.loads(path.read_text(encoding="utf-8"))).to_markdown()
    except CodirError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # whatever a file from elsewhere holds
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}). "
            f"`codir latency ... --output {shlex.quote(str(path))}` measures "
            "again; or delete it."
        ) from error
    return table if table.lstrip().startswith("#") else f"## Latency\n\n{table}"


def _main(metrics: Mapping[str, Mapping[str, float]] | None) -> str:
    first = next(iter((metrics or {}).values()), {})
    name, value = next(iter(first.items()), ("", None))
    return "-" if value is None else f"{name} {value:.4f}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RunError(f"{path}, line {line}: not UTF-8 text. Save it as UTF-8, or --regenerate.") from error
