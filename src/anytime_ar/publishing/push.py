"""`push`: upload a bundle, its model card and figures to a repository of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from anytime_ar.bundle.format import BUNDLE_FILES, Bundle, find_bundle, load_bundle
from anytime_ar.errors import InputError, require_extras
from anytime_ar.evaluation import (
    contact_sheet,
    evenly_spaced_budgets,
    plot_curve,
    write_contact_sheet,
)
from anytime_ar.publishing.model_card import model_card
from anytime_ar.runtime.files import write_bytes
from anytime_ar.runtime.hub import parse_hub_ref, upload_files
from anytime_ar.sampling import AnytimeModel, SampleKwargs

NUM_SHOWN_SAMPLES = 10
"""Number of samples in the figure."""
_GENERATED_FILES = {"README.md", "curve.png", "samples.png"}
"""Names of the files that a push adds to a bundle."""


def push(
    name: str | Path,
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a model to the Hugging Face Hub in one commit: bundle, model card and figures.

    The repository is created if it does not exist. The push replaces its model card, and the bundle
    and figures of an earlier push; other files stay.

    Args:
        name: name of a shipped bundle, folder or Hub ID, as `load` takes it.
        repository: Hub ID of the repository, `"owner/name"`.
        private: whether a new repository is private.
        message: commit message; None: the name of the model.
        revision: branch to push to, created if it does not exist; None: the main branch.
        license: licence of the model by its identifier on the Hub (`"apache-2.0"`); None: the card
            names none.

    Returns:
        The Hub ID of exactly this revision, `"owner/name@commit"`, as `load` takes it.

    Raises:
        BundleError: the model does not exist, or is damaged.
        InputError: the name of the repository is invalid, or the Hub refuses or cannot be reached.
        MissingExtraError: the extra `hub` is not installed.
    """
    ref = parse_hub_ref(repository)
    if ref is None or ref.revision is not None:
        raise InputError(f"{repository!r} is no repository of the Hub; pass OWNER/NAME")
    require_extras("a push to the Hub", "hub")  # fail before figures are made
    folder = find_bundle(name)
    bundle = load_bundle(folder)
    with TemporaryDirectory() as temporary:
        generated = Path(temporary)
        figures = _write_figures(bundle, generated)
        text = model_card(bundle, repository, figures=figures, license=license)
        write_bytes(generated / "README.md", text.encode())
        files = {path.name: path for path in sorted(folder.iterdir()) if path.name in BUNDLE_FILES}
        files |= {path.name: path for path in sorted(generated.iterdir())}
        state = upload_files(
            ref._replace(revision=revision),
            files,
            managed_names=BUNDLE_FILES | _GENERATED_FILES,
            private=private,
            message=message or f"Model {bundle.card.name}",
        )
    return str(state)


def _write_figures(bundle: Bundle, folder: Path) -> Sequence[str]:
    """Write samples.png and curve.png, as far as the model has them, and return the names."""
    written = []
    model = AnytimeModel(bundle, device="cpu")
    if model.can_sample:
        options = SampleKwargs(seed=0)
        if model.labels is not None:
            options["label"] = [i % len(model.labels) for i in range(NUM_SHOWN_SAMPLES)]
        codes = model.sample_codes(NUM_SHOWN_SAMPLES, **options)
        measured = [point.codes for point in bundle.curve.points] if bundle.curve else None
        budgets = evenly_spaced_budgets(measured or range(1, model.code_length + 1))
        sheet = contact_sheet(model, codes, budgets, sample_rate=model.sample_rate)
        write_contact_sheet(sheet, budgets, folder / "samples.png")
        written.append("samples.png")
    if bundle.curve is not None:
        write_bytes(folder / "curve.png", plot_curve(bundle.curve))
        written.append("curve.png")
    return written
