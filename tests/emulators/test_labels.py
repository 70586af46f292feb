"""Labels: the affine map from what users say, scaling, and the polytope of a domain."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emulators import Domain, LabelSet

NAMES = ("teff", "logg", "he_frac", "fe_h", "mg_h", "ca_h")
LABELS = LabelSet(NAMES, ("K", "dex", "", "dex", "dex", "dex"),
                  (4000.0, 0.0, 0.0784, -2.0, -2.0, -2.0), (7000.0, 5.0, 0.0784, 0.5, 1.0, 1.0))
abundance = st.floats(-2.0, 1.0)
# log g no larger than a line in teff, [Mg/Fe] at most 0.4
WEDGE = Domain(np.array([[-1e-3, 1.0, 0.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
               np.array([0.0, 0.0, 7000.0, 0.4]))


@given(fe=abundance, mg_fe=st.floats(-0.5, 0.5))
def test_elements_follow_iron_and_ratios_come_on_top(fe: float, mg_fe: float) -> None:
    star = LABELS.vector({"teff": 5772.0, "logg": 4.44, "fe_h": fe, "mg_fe": mg_fe})
    assert dict(zip(NAMES, star, strict=True)) == pytest.approx(
        {"teff": 5772.0, "logg": 4.44, "he_frac": 0.0784, "fe_h": fe, "mg_h": fe + mg_fe,
         "ca_h": fe}
    )


@given(fe=abundance, mg=abundance)
def test_an_element_given_relative_to_hydrogen_ignores_iron(fe: float, mg: float) -> None:
    star = LABELS.vector({"teff": 5000.0, "logg": 3.0, "mg_h": mg, "fe_h": fe})
    assert star[LABELS.index("mg_h")] == mg
    assert star[LABELS.index("ca_h")] == fe


@given(st.permutations(["teff", "logg", "fe_h", "mg_fe", "ca_h"]))
def test_the_order_of_parameters_does_not_matter(order: list[str]) -> None:
    values = {"teff": 5000.0, "logg": 2.0, "fe_h": -1.0, "mg_fe": 0.3, "ca_h": -0.8}
    expected = LABELS.vector(values)
    assert LABELS.vector({n: values[n] for n in order}) == pytest.approx(expected)


def test_without_iron_every_element_is_solar() -> None:
    star = LABELS.vector({"teff": 5000.0, "logg": 2.0, "mg_fe": 0.3})
    assert star[3:].tolist() == [0.0, 0.3, 0.0]


def test_helium_can_be_given() -> None:
    star = LABELS.vector({"teff": 5000.0, "logg": 2.0, "he_frac": 0.1})
    assert star[LABELS.index("he_frac")] == 0.1


def test_arrays_of_stars_broadcast() -> None:
    stars = LABELS.vector({"teff": np.linspace(4000, 6000, 5), "logg": 4.0, "fe_h": -0.5})
    assert stars.shape == (5, 6)
    assert (stars[:, 4] == -0.5).all()


@pytest.mark.parametrize(("parameters", "sentence"), [
    (["teff", "logg", "mg_h", "mg_fe"], "given more than once: mg_h"),
    (["teff", "teff", "logg"], "given more than once: teff"),
    (["teff", "logg", "mgh"], r"unknown label 'mgh' \(did you mean mg_h\?\); valid: teff, logg"),
    (["teff", "logg", "fe_fe"], "unknown label 'fe_fe'"),
    (["logg", "fe_h"], "no value for teff; every star needs one"),
])
def test_what_cannot_be_meant_is_refused(parameters: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LABELS.affine(parameters)


def test_the_unknown_label_error_lists_every_valid_name() -> None:
    with pytest.raises(ValueError, match="unknown label") as caught:
        LABELS.index("colour")
    assert all(name in str(caught.value) for name in NAMES)


def test_scaling_maps_the_limits_to_plus_minus_one_and_a_constant_to_zero() -> None:
    low, high = np.array(LABELS.low), np.array(LABELS.high)
    assert LABELS.scale(low).tolist() == [-1.0, -1.0, 0.0, -1.0, -1.0, -1.0]
    assert LABELS.scale(high).tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]


@given(arrays(np.float64, (3, 6), elements=st.floats(-10, 10)))
def test_tensors_and_arrays_scale_alike(labels: np.ndarray) -> None:
    scaled = LABELS.scale(torch.as_tensor(labels)).numpy()
    np.testing.assert_allclose(scaled, LABELS.scale(labels), rtol=0, atol=1e-12)


def test_a_spanning_scale_covers_every_set() -> None:
    warm = LabelSet(("teff", "fe_h"), ("K", "dex"), (6000.0, -1.0), (8000.0, 0.0))
    cool = LabelSet(("teff", "fe_h"), ("K", "dex"), (4000.0, -0.5), (6500.0, 0.5))
    both = LabelSet.spanning(warm, cool)
    assert (both.low, both.high) == ((4000.0, -1.0), (8000.0, 0.5))


def test_sets_of_different_labels_share_no_scale() -> None:
    other = LabelSet(("teff",), ("K",), (4000.0,), (5000.0,))
    with pytest.raises(ValueError, match="different names"):
        LabelSet.spanning(LABELS, other)


@pytest.mark.parametrize(("names", "sentence"), [
    (("teff", "teff"), "unique"), (("teff",), "differ in length"),
])
def test_inconsistent_label_sets_are_refused(names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LabelSet(names, ("K", "K"), (0.0, 0.0), (1.0, 1.0))


@pytest.mark.parametrize("ends", [(2.0, 1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_a_scale_that_does_not_rise_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="low must be at most high, both finite, but not of logg"):
        LabelSet(("teff", "logg"), ("K", "dex"), (4000.0, ends[0]), (4000.0, ends[1]))


def test_a_label_set_survives_json() -> None:
    assert LabelSet.from_dict(json.loads(json.dumps(LABELS.to_dict()))) == LABELS


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 0.39))
def test_a_domain_contains_what_its_faces_allow(t: float, g: float, mg: float) -> None:
    teff = 7000.0 * t
    inside = np.array([teff, 1e-3 * teff * g, mg])
    assert WEDGE.contains(inside)
    assert not WEDGE.contains(inside + np.array([0.0, 1e-3 * teff + 0.01, 0.0]))


def test_a_tilted_face_joins_two_labels() -> None:
    stars = np.array([[5000.0, 4.9, 0.0], [5000.0, 5.1, 0.0], [5200.0, 5.1, 0.0]])
    assert WEDGE.contains(stars).tolist() == [True, False, True]


def test_nan_labels_are_outside() -> None:
    assert not WEDGE.contains(np.array([np.nan, 1.0, 0.0]))


def test_float32_rounding_on_a_face_is_forgiven() -> None:
    limit = 0.1 + 0.2  # rounds up in float32
    box = Domain.box([0.0], [limit])
    rounded = np.float32(limit)
    assert float(rounded) > limit
    assert box.contains(np.array([rounded]))
    assert not box.contains(np.array([limit + 1e-4]))


@given(arrays(np.float64, 4, elements=st.integers(-10**7, 10**7).map(lambda n: n / 1300)))
def test_rounding_a_corner_to_float32_never_leaves_the_box(corner: np.ndarray) -> None:
    box = Domain.box(corner, corner + 1.0)
    assert box.contains(corner.astype(np.float32).astype(float))


def test_the_broken_face_is_described_in_words() -> None:
    text = WEDGE.describe_excess(np.array([5000.0, 6.0, 0.0]), ("teff", "logg", "mg_h"))
    assert text == "teff = 5000, logg = 6, but - 0.001 teff + logg must be at most 0"


def test_a_lower_limit_is_described_with_its_sign() -> None:
    box = Domain.box([4000.0], [7000.0])
    text = box.describe_excess(np.array([3500.0]), ("teff",))
    assert text == "teff = 3500, but - teff must be at most -4000"


def test_a_domain_survives_json() -> None:
    again = Domain.from_dict(json.loads(json.dumps(WEDGE.to_dict())))
    assert np.array_equal(again.A, WEDGE.A)
    assert np.array_equal(again.b, WEDGE.b)


def test_faces_and_limits_must_match() -> None:
    with pytest.raises(ValueError, match="n_face"):
        Domain(np.eye(3), np.zeros(2))
