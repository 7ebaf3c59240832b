"""The sink: one file under its BIDS name, with its sidecar, written whole or not at all."""

import gzip
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_stroke.bids import names
from bids_stroke.core.files import atomic_path, read_json, write_json
from bids_stroke.errors import InputOutputError, TryAgain, is_full


class _SinkInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="file to put into the output dataset")
    out_dir = traits.Str(mandatory=True, desc="root of the output dataset")
    entities = traits.Dict(mandatory=True, desc="entities of the pair, by their pybids names")
    kind = traits.Str(mandatory=True, desc="kind of output, as data/io_spec.json has it")
    extra = traits.Dict(desc="more entities, suffix, extension")
    after = traits.List(traits.Str, desc="files that must be there before this one")
    metadata = traits.Dict(desc="content of the sidecar besides the description of the kind")


class _SinkOutputs(TraitedSpec):
    out_file = File(exists=True, desc="the file under its final name")


class DerivativeSink(SimpleInterface):
    """Copy a file to its name in the output dataset.

    The sidecar is there before the file gets its final name, so that a file always has one. It
    runs in every run, because the output folder may have changed since the last.
    """

    input_spec = _SinkInputs
    output_spec = _SinkOutputs
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        extra = inputs.extra if isdefined(inputs.extra) else {}
        metadata = inputs.metadata if isdefined(inputs.metadata) else {}
        relative = names.output_path(inputs.entities, inputs.kind, **extra)
        final = Path(inputs.out_dir) / relative
        save_derivative(Path(inputs.in_file), final, kind=inputs.kind, metadata=metadata)
        self._results["out_file"] = str(final)
        return runtime


def save_derivative(
    source: Path, final: Path, *, kind: str, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Copy ``source`` to ``final`` with the data type of its kind, and write the sidecar.

    Raises TryAgain when the disk is full and InputOutputError for any other failure; neither
    leaves a half-written file under a final name.
    """
    rules = names.kind_spec(kind)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(final) as temporary:
            _copy(source, temporary, rules.get("dtype"))
            if rules.get("sidecar", True):
                _write_sidecar(final, rules, metadata or {})
    except OSError as error:
        if is_full(error):
            raise TryAgain(f"The disk is full, so {final} can't be written: free some.") from error
        raise InputOutputError(f"{final} can't be written: {error}.") from error
    return final


def _write_sidecar(final: Path, rules: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Sidecar of one file; a shared one (image and table) gathers what both say."""
    path = names.sidecar_path(final)
    shared = rules.get("shared_sidecar", False)
    earlier = read_json(path) if shared and path.exists() else {}
    content = {"Description": rules["description"], **earlier, **metadata}
    write_json(path, content)


def _copy(source: Path, target: Path, dtype: str | None) -> None:
    """Copy bytes; an image that lacks the type, the units or a repeatable header is rewritten."""
    if dtype is None or _is_ready(source, target, dtype):
        shutil.copyfile(source, target)
    else:
        _rewrite(source, target, dtype)


def _is_ready(source: Path, target: Path, dtype: str) -> bool:
    import nibabel as nib

    if source.suffixes[-2:] != target.suffixes[-2:] or not _is_repeatable_gzip(source):
        return False
    header: Any = nib.load(source).header
    scaled = header.get_slope_inter() not in ((None, None), (1.0, 0.0))
    in_units = header.get_xyzt_units() == ("mm", "sec")
    return header.get_data_dtype() == dtype and in_units and not scaled


def _is_repeatable_gzip(path: Path) -> bool:
    """A gzip header without a file name and a time stamp, so that equal data are equal bytes."""
    with path.open("rb") as stream:
        start = stream.read(10)
    return start[:2] == b"\x1f\x8b" and start[3] == 0 and start[4:8] == bytes(4)


def _rewrite(source: Path, target: Path, dtype: str) -> None:
    """Write the image as ``dtype``; grid, sform and qform with their codes stay as they are."""
    import nibabel as nib
    import numpy as np

    image: Any = nib.load(source)
    data = np.asanyarray(image.dataobj)
    if np.issubdtype(dtype, np.integer):
        data = np.rint(data)
    header = image.header.copy()
    header.set_data_dtype(dtype)
    header.set_slope_inter(None, None)
    header.set_xyzt_units("mm", "sec")
    content = nib.Nifti1Image(data.astype(dtype), None, header).to_bytes()
    target.write_bytes(gzip.compress(content, compresslevel=5, mtime=0))
