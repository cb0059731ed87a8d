"""Which model of a page a folder belongs to: by the folder itself, never by a name or a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codir.engines.folder import Manifest
from codir.errors import CodirError


@dataclass(frozen=True)
class Owners:
    """Where the models of one panel lie.

    Attributes:
        page: the run's or the study's folder; all that lies in it is of this page.
        folders: of each model of the panel, in their order; in a study those of all its seeds.
        teachers: of the page, for any task.
        examples: validation examples by split that the page's scores are from; empty where it is not known.
        max_length: tokens that texts were cut at for these scores; None where it is not known.
    """

    page: Path
    folders: Sequence[Sequence[Path]]
    teachers: Sequence[Path] = ()
    examples: Mapping[str, int] = field(default_factory=dict)
    max_length: int | None = None

    def own(self, path: str | Path) -> int | None:
        """Returns the number of the model whose folder this is, or None."""
        found = self.resolved(path)
        return next(
            (n for n, each in enumerate(self.folders) if any(resolved(one) == found for one in each)), None
        )

    def is_here(self, path: str | Path) -> bool:
        """Says whether a folder lies in the page's folder, or is one of its teachers."""
        found = self.resolved(path)
        inside = found.is_relative_to(resolved(self.page))
        return inside or any(resolved(teacher) == found for teacher in self.teachers)

    def source(self, manifest: Manifest) -> int | None:
        """Returns the number of the model that an export was made from, by its path or by its weights; or None."""
        if manifest.source:
            named = self.own(manifest.source)
            if named is not None:
                return named
        return self._of_weights(manifest.source_digest) if manifest.source_digest else None

    def resolved(self, path: str | Path) -> Path:
        """Resolves a path that may have been named from another working directory: beside the page or above it."""
        given = Path(path).expanduser()
        if not given.is_absolute() and not given.exists():
            above = resolved(self.page)
            given = next((up / given for up in (above, *above.parents) if (up / given).exists()), given)
        return given.resolve()

    def _of_weights(self, digest: str) -> int | None:
        from codir.deploy.export import weights_digest
        from codir.models.loading import load_classifier

        for number, each in enumerate(self.folders):
            for folder in each:
                if not (folder / "config.json").is_file():
                    continue
                try:
                    if weights_digest(load_classifier(folder)) == digest:
                        return number
                except (CodirError, OSError, ValueError):
                    continue
        return None


def resolved(path: str | Path) -> Path:
    """Returns a path without links, `~` and `..`."""
    return Path(path).expanduser().resolve()
