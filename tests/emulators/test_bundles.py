"""Bundles of astro-emulators-toolkit: the same fluxes as theirs, or a sentence why not.

``bundles/small-intensity`` was written by version 0.1.0 of the toolkit itself, with its outputs
for one star (``python benchmarks/peers/toolkit.py write FOLDER < small-intensity.json``, by the
interpreter of its environment).  The other bundles are written here, by the format.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import emulators
from emulators import Emulator

RELEASED = Path(__file__).parent / "bundles" / "small-intensity"
LINES, CONTINUUM = "log_flux_lines", "log_flux_continuum"
LOW, HIGH = [4000.0, 1.0, -2.0], [7000.0, 5.0, 0.5]
PIXELS = 5150.0 * np.exp(1e-5 * np.arange(60))
PLAIN = {
    "activation": "gelu", "alpha_att": 1.0, "alpha_emb": 1.0, "bias_attention": False,
    "channels": 1, "dim": 12, "dim_ff_multiplier": 2, "dim_head": 4, "max_period": 10.0,
    "min_period": 1e-6, "no_layers": 2, "no_tokens": 3, "output_activation": "linear",
    "reference_depth": None,
}
Weights = dict[str, NDArray[np.float32]]


def random_weights(p: dict[str, Any], *, biases: bool) -> Weights:
    """Weights of the size that keeps activations about 1."""
    d, heads, wide = p["dim"], p["dim"] // p["dim_head"], p["dim"] * p["dim_ff_multiplier"]
    shapes = {"param_embedding/w0": (3, d), "param_embedding/w1": (d, p["no_tokens"] * d),
              "head/proj0/w": (d, d), "head/proj1/w": (d, p["channels"])}
    if biases:
        shapes |= {"param_embedding/b0": (d,), "param_embedding/b1": (p["no_tokens"] * d,),
                   "head/proj0/b": (d,), "head/proj1/b": (p["channels"],)}
    for i in range(p["no_layers"]):
        shapes |= {f"attn_layers/{i}/w{x}": (d, heads, p["dim_head"]) for x in "qkv"}
        shapes |= {f"attn_layers/{i}/wo": (heads, p["dim_head"], d),
                   f"ff_layers/{i}/in_proj/w": (d, wide), f"ff_layers/{i}/out_proj/w": (wide, d)}
        if biases:
            shapes |= {f"ff_layers/{i}/in_proj/b": (wide,), f"ff_layers/{i}/out_proj/b": (d,)}
    rng = np.random.default_rng(2)
    return {name: (1.5 * rng.standard_normal(shape) / np.sqrt(d)).astype(np.float32)
            for name, shape in shapes.items()}


def textbook(w: Weights, p: dict[str, Any], labels: Any, x: Any) -> Any:
    """The network's outputs (n_pix, channels) in float64 for scaled labels (n_label,), x (n_pix,).

    Różański et al. 2023 (arXiv:2306.15703), section 3, with the toolkit's scalings.
    """
    def norm(a: Any) -> Any:
        return a / np.sqrt((a**2).mean(axis=-1, keepdims=True) + 1e-6)

    def gelu(a: Any) -> Any:
        return a * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))

    def layer(a: Any, name: str, number: str = "") -> Any:
        return a @ w[f"{name}w{number}"].astype(float) + w.get(f"{name}b{number}", 0.0)

    hidden = gelu(layer(labels, "param_embedding/", "0"))
    tokens = layer(hidden, "param_embedding/", "1").reshape(p["no_tokens"], p["dim"])
    tokens = norm(p["alpha_emb"] * tokens)
    periods = np.geomspace(p["min_period"], p["max_period"], p["dim"])
    h = np.sin(2 * np.pi * x[:, None] / periods)
    step = 1.0 if p["reference_depth"] is None else p["reference_depth"] / p["no_layers"]
    for i in range(p["no_layers"]):
        q, k, v, o = (w[f"attn_layers/{i}/w{name}"].astype(float) for name in "qkvo")
        increment = 0.0
        for head in range(q.shape[1]):
            scores = (norm(h) @ q[:, head]) @ (tokens @ k[:, head]).T
            share = np.exp(p["alpha_att"] * scores / p["dim_head"])
            share /= share.sum(axis=1, keepdims=True)
            increment = increment + share @ (tokens @ v[:, head]) @ o[head]
        h = h + step * increment
        inner = gelu(layer(norm(h), f"ff_layers/{i}/in_proj/"))
        h = h + step * layer(inner, f"ff_layers/{i}/out_proj/")
    return layer(gelu(layer(norm(h), "head/proj0/")), "head/proj1/")


def write_manifest(folder: Path) -> None:
    """List the files of a bundle with their hashes."""
    metadata = folder / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()), indent=2, sort_keys=True))
    (folder / "bundle_integrity.json").unlink(missing_ok=True)
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    tree = [{"path": p.relative_to(folder).as_posix(),
             "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in paths]
    (folder / "bundle_integrity.json").write_text(json.dumps({
        "integrity_format_version": 1, "algorithm": "sha256", "bundle_id": "sha256:0", "tree": tree,
    }))


def described(p: dict[str, Any], *, zero: float = 0.0, one: float = 1.0) -> dict[str, Any]:
    """What a bundle says of a network of three labels and one output."""
    wave = np.log10(PIXELS[[0, -1]]).tolist()
    return {
        "bundle_format_version": 1, "weights_layout": "params_plus_model_state_v1",
        "release": None, "provenance": {"toolkit_version": "0.1.0"},
        "resolved": {"model": {"name": "transformer_payne", "params": p}},
        "runtime_contract": {"role_paths": {
            "parameter_leaf": "inputs/star/parameters", "wavelength_leaf": "inputs/wavelengths",
            "output_leaf": "outputs/flux"}},
        "extras": {"wavelength_angstrom": {"__aet_sidecar__": {
            "path": "extras/wavelength_angstrom.safetensors"}}},
        "spec": {
            "inputs": {
                "channel_names_tree": {"star": {"parameters": ["T_eff", "log g", "[Fe/H]"]}},
                "channel_units_tree": None, "leaf_units_tree": None},
            "outputs": {"channel_names_tree": None},
            "reference_scaling_inputs": {
                "min_tree": {"star": {"parameters": LOW}, "wavelengths": zero},
                "max_tree": {"star": {"parameters": HIGH}, "wavelengths": one}},
            "reference_scaling_outputs": {"min_tree": {"flux": 0.25}, "max_tree": {"flux": 0.75}},
            "input_domain": {
                "min_tree": {"star": {"parameters": [4500.0, 1.0, -1.0]}, "wavelengths": wave[0]},
                "max_tree": {"star": {"parameters": [6500.0, 5.0, 0.5]}, "wavelengths": wave[1]}}},
    }


def write(folder: Path, metadata: dict[str, Any], weights: Weights) -> Path:
    """Write a bundle."""
    for name in ("weights", "extras"):
        (folder / name).mkdir(parents=True)
    save_file({f"params/params/core_model/{n}": w for n, w in weights.items()}
              | {"params/model_state/__empty_dict__": np.zeros(1, dtype=np.int8)},
              folder / "weights" / "weights.safetensors")
    save_file({"value": PIXELS}, folder / "extras" / "wavelength_angstrom.safetensors")
    (folder / "metadata.json").write_text(json.dumps(metadata))
    write_manifest(folder)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A whole bundle of one output, for a test to spoil."""
    return write(tmp_path / "theirs", described(PLAIN), random_weights(PLAIN, biases=False))


def change(bundle: Path, *path: str, to: Any) -> Path:
    """Let a bundle say something else, and say it wholly."""
    metadata = json.loads((bundle / "metadata.json").read_text())
    inner = metadata
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    (bundle / "metadata.json").write_text(json.dumps(metadata))
    write_manifest(bundle)
    return bundle


def of_the_release() -> tuple[Emulator, torch.Tensor, NDArray[np.float64]]:
    """Their star: the emulator of its ratio, its labels and its two physical outputs."""
    emulator = emulators.load(RELEASED, medium="vacuum", channel=(LINES, CONTINUUM))
    stored = [load_file(RELEASED / "fingerprint_evaluation" / f"{n}.safetensors")
              for n in ("inputs", "outputs")]
    low, high = np.array(emulator.labels.low), np.array(emulator.labels.high)
    labels = low + stored[0]["parameters"][0].astype(float) * (high - low)
    limits = load_file(RELEASED / "reference_scaling_outputs.safetensors")
    span = limits["max/flux"] - limits["min/flux"]
    return emulator, torch.tensor(labels), limits["min/flux"] + stored[1]["flux"][0] * span


def test_a_bundle_of_theirs_gives_the_outputs_that_it_stores() -> None:
    emulator, star, outputs = of_the_release()
    assert np.ptp(outputs, axis=0).min() > 0.05
    for column, name in enumerate((LINES, CONTINUUM)):
        one = emulators.load(RELEASED, medium="vacuum", channel=name)
        np.testing.assert_allclose(one(star, one.pixels), outputs[:, column], rtol=0, atol=2e-6)
    ratio = 10.0 ** (outputs[:, 0] - outputs[:, 1])
    np.testing.assert_allclose(emulator(star, emulator.pixels), ratio, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("options", "biases", "scale"), [
    ({}, False, (0.0, 1.0)),
    ({"no_layers": 3, "reference_depth": 2, "alpha_emb": 0.4, "alpha_att": 1.7,
      "min_period": 1e-3}, True, (3.70, 3.73)),
])
def test_fluxes_are_those_of_the_textbooks_network(
    tmp_path: Path, options: dict[str, Any], biases: bool, scale: tuple[float, float]
) -> None:
    settings = {**PLAIN, **options}
    weights = random_weights(settings, biases=biases)
    folder = write(tmp_path / "x", described(settings, zero=scale[0], one=scale[1]), weights)
    emulator = emulators.load(folder, medium="air")
    stars = np.array([[4700.0, 2.0, -0.5], [6000.0, 4.5, 0.3]])
    x = (np.log10(PIXELS) - scale[0]) / (scale[1] - scale[0])
    scaled = (stars - LOW) / (np.array(HIGH) - LOW)
    expected = 0.25 + 0.5 * np.array([textbook(weights, settings, s, x)[:, 0] for s in scaled])
    assert np.ptp(expected, axis=1).min() > 0.1
    flux = emulator(torch.tensor(stars), PIXELS)
    assert flux.dtype == torch.float32
    np.testing.assert_allclose(flux, expected, rtol=0, atol=1e-5)
    # What float32 rounds away comes back in float64, but for the rounding of the weights.
    np.testing.assert_allclose(emulator.to(torch.float64)(torch.tensor(stars), PIXELS), expected,
                               rtol=0, atol=1e-6)


def test_what_a_bundle_says_becomes_labels_domain_and_pixels(bundle: Path) -> None:
    emulator = emulators.load(bundle, medium="air")
    assert emulator.name == "theirs"
    assert emulator.labels.names == ("teff", "logg", "fe_h")
    assert emulator.labels.units == ("K", "dex", "dex")
    assert emulator.labels.low == tuple(LOW)
    assert emulator.domain.contains(np.array([[4500.0, 1.0, -1.0], [4400.0, 1.0, -1.0]])
                                    ).tolist() == [True, False]
    assert emulator.medium == "air"
    assert np.array_equal(emulator.pixels, PIXELS)
    assert emulators.load(RELEASED, medium="air", channel=LINES).name == "small-intensity"


def test_saved_it_is_an_emulator_like_any_other(tmp_path: Path) -> None:
    emulator, star, _ = of_the_release()
    again = emulators.load(emulator.save(tmp_path / "ours"))
    assert torch.equal(again(star, again.pixels), emulator(star, emulator.pixels))
    assert again.provenance == emulator.provenance
    assert again.provenance["bundle"]["version"] == "0.1.0"
    assert again.medium == "vacuum"


def test_what_a_bundle_lacks_can_be_said(bundle: Path) -> None:
    for what in (("spec", "inputs", "channel_names_tree"), ("spec", "reference_scaling_inputs"),
                 ("spec", "input_domain"), ("extras",)):
        change(bundle, *what, to=None)
    told = {"medium": "vacuum", "names": ["teff", "logg", "fe_h"], "scale": (LOW, HIGH),
            "wavelength": PIXELS[5:]}
    emulator = emulators.load(bundle, **told)
    assert np.array_equal(emulator.pixels, PIXELS[5:])
    assert emulator.domain.contains(np.array([LOW, HIGH])).all()
    for word, sentence in (
        ("medium", r"in air or in vacuum: give emulators.load medium='air' or 'vacuum', not None"),
        ("names", r"does not name its 3 labels: give names=\[\.\.\.\]"),
        ("scale", r"how its labels are scaled: give scale=\(low, high\)"),
        ("wavelength", r"no extra 'wavelength_angstrom': give wavelength="),
    ):
        with pytest.raises(ValueError, match=rf"theirs': .*{sentence}"):
            emulators.load(bundle, **{k: v for k, v in told.items() if k != word})
    with pytest.raises(ValueError, match="takes 3 labels, but there are 2 names"):
        emulators.load(bundle, **{**told, "names": ["teff", "logg"]})


def test_of_several_outputs_one_must_be_the_flux() -> None:
    with pytest.raises(ValueError, match=f"gives {LINES} and {CONTINUUM}: say with channel="):
        emulators.load(RELEASED, medium="air")
    with pytest.raises(ValueError, match="unknown channel 'log_flux_line'"):
        emulators.load(RELEASED, medium="air", channel="log_flux_line")


@pytest.mark.parametrize(("path", "value", "sentence"), [
    ("bundle_format_version", 2, "its bundle_format_version is 2, expected 1"),
    ("resolved/model/name", "mlp", "of kind 'mlp'; only transformer_payne can be read"),
    ("resolved/model/name", "cannon", "of kind 'cannon'; only transformer_payne can be read"),
    ("resolved/model/params/activation", "relu", "activation='relu'; only 'gelu' can be read"),
    ("resolved/model/params/output_activation", "sigmoid", "='sigmoid'; only 'linear' can be read"),
    ("resolved/model/params/bias_attention", True, "bias_attention=True; only False can be read"),
    ("resolved/model/params/no_layers", 3, "do not make a network of astro-emulators-toolkit 0.1"),
    ("resolved/model/params/dim_head", 6, "heads are 4 wide, but its settings say 6"),
    ("spec/inputs/leaf_units_tree", {"wavelengths": "nm"}, r"in 'nm'; only log10\(Angstrom\) can"),
    ("spec/input_domain/max_tree/wavelengths", 1.0, r"3.71181 to 1, should be in log10"),
    ("spec/reference_scaling_inputs/max_tree/wavelengths", 6e3, r"by 0 to 6000, which is no log10"),
    ("extras/wavelength_angstrom", [5200.0, 5100.0], r"increasing wavelengths in Angstrom"),
])
def test_what_we_cannot_express_is_refused(
    bundle: Path, path: str, value: Any, sentence: str
) -> None:
    change(bundle, *path.split("/"), to=value)
    with pytest.raises(ValueError, match=rf"theirs': .*({sentence})"):
        emulators.load(bundle, medium="air")


def spoil(name: str) -> Callable[[Path], None]:
    """Return what changes a byte of a file."""
    def change_a_byte(bundle: Path) -> None:
        content = bytearray((bundle / name).read_bytes())
        content[-20] ^= 1
        (bundle / name).write_bytes(content)

    return change_a_byte


def leave_out(bundle: Path) -> None:
    """Let the manifest list no weights."""
    manifest = json.loads((bundle / "bundle_integrity.json").read_text())
    manifest["tree"] = [e for e in manifest["tree"] if "weights" not in e["path"]]
    (bundle / "bundle_integrity.json").write_text(json.dumps(manifest))


def call_nothing(bundle: Path) -> None:
    """Let the manifest have no name of its own."""
    manifest = json.loads((bundle / "bundle_integrity.json").read_text())
    del manifest["bundle_id"]
    (bundle / "bundle_integrity.json").write_text(json.dumps(manifest))


def lead_away(bundle: Path) -> None:
    """Let the manifest name a file elsewhere."""
    manifest = (bundle / "bundle_integrity.json").read_text()
    (bundle / "bundle_integrity.json").write_text(manifest.replace("extras/", "../extras/"))


@pytest.mark.parametrize(("damage", "sentence"), [
    (spoil("weights/weights.safetensors"), r"weights/weights.safetensors is damaged: its SHA-256"),
    (spoil("extras/wavelength_angstrom.safetensors"), "wavelength_angstrom.safetensors is damaged"),
    (lambda b: (b / "metadata.json").write_text("{}"), "metadata.json is damaged"),
    (lambda b: (b / "metadata.json").write_text("{"), "Expecting property name"),
    (lambda b: (b / "metadata.json").unlink(), "metadata.json is missing: fetch the bundle again"),
    (lambda b: shutil.rmtree(b / "weights"), "weights.safetensors is missing: fetch the bundle"),
    (lambda b: (b / "bundle_integrity.json").unlink(), "bundle_integrity.json is missing, without"),
    (call_nothing, "its manifest has no bundle_id: fetch the bundle again"),
    (leave_out, "its manifest lists no weights/weights.safetensors"),
    (lead_away, "must lie in the folder itself"),
])
def test_a_damaged_bundle_is_refused(
    bundle: Path, damage: Callable[[Path], Any], sentence: str
) -> None:
    damage(bundle)
    with pytest.raises(ValueError, match=f"theirs': .*{sentence}"):
        emulators.load(bundle, medium="air")


def test_a_bundle_may_say_nothing_of_its_origin(bundle: Path) -> None:
    change(bundle, "provenance", to=None)
    assert emulators.load(bundle, medium="vacuum").provenance["bundle"]["version"] is None


def test_an_emulator_of_ours_is_told_nothing(emulator: Emulator, tmp_path: Path) -> None:
    emulator.save(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"ours' is no bundle of .* loaded with medium="):
        emulators.load(tmp_path / "ours", medium="air")
