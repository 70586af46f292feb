"""The affine maps from parameters to labels, their limits, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from emulators import Domain, LabelSet
from stellarfit.parameters import DEFAULT_FREE, STAGES, make_parameters

LABELS = LabelSet(
    ("teff", "logg", "vmic", "he_frac", "c_h", "mg_h", "ca_h", "fe_h"),
    ("K", "dex", "km/s", "", "dex", "dex", "dex", "dex"),
    (4000.0, 0.5, 0.0, 0.0, -3, -3, -3, -2.5), (7000.0, 5.0, 2.5, 0.16, 1.4, 1.4, 1.4, 1.0),
)
#: |[X/Fe]| <= 0.4, and no cool dwarfs of low gravity beyond logg = teff / 1000 - 3.5
DOMAIN = Domain(
    np.vstack([Domain.box(LABELS.low, LABELS.high).A,
               *(s * np.eye(8)[[i]] - s * np.eye(8)[[7]] for i in (4, 5, 6) for s in (1, -1)),
               [[1e-3, -1, 0, 0, 0, 0, 0, 0]]]),
    np.concatenate([Domain.box(LABELS.low, LABELS.high).b, np.full(6, 0.4), [3.5]]),
)
SUN = {"teff": 5772.0, "logg": 4.44, "vmic": 1.0}


def make(free=None, **kwargs):
    return make_parameters(LABELS, DOMAIN, free=free, **kwargs)


def labels_of(parameters, **values):
    theta = np.array([values[n] for n in parameters.names])
    return dict(zip(LABELS.names, parameters.A @ theta + parameters.b, strict=True))


def stages_of(parameters, **values):
    theta = np.array([values[n] for n in parameters.names])
    return dict(zip(STAGES, parameters.stage_A @ theta + parameters.stage_b, strict=True))


def refusal(*args, **kwargs):
    with pytest.raises(ValueError) as caught:
        make(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_free_label_is_itself_and_an_element_nobody_mentions_follows_iron():
    p = make(["teff", "logg", "vmic", "fe_h"])
    labels = labels_of(p, **SUN, fe_h=-0.7)
    assert labels == {**SUN, "fe_h": -0.7, "c_h": -0.7, "mg_h": -0.7, "ca_h": -0.7,
                      "he_frac": pytest.approx(0.0784)}


def test_a_ratio_is_added_on_top_of_iron():
    labels = labels_of(make([*SUN, "fe_h", "mg_fe"]), **SUN, fe_h=-0.5, mg_fe=0.3)
    assert labels["mg_h"] == pytest.approx(-0.2)
    assert labels["ca_h"] == pytest.approx(-0.5)


def test_an_element_given_over_hydrogen_stays_when_iron_moves():
    p = make([*SUN, "fe_h", "mg_h"])
    assert labels_of(p, **SUN, fe_h=-0.5, mg_h=-0.2)["mg_h"] == pytest.approx(-0.2)
    assert labels_of(p, **SUN, fe_h=-0.4, mg_h=-0.2)["mg_h"] == pytest.approx(-0.2)


def test_a_fixed_label_does_not_move_and_a_fixed_ratio_rides_on_iron():
    p = make(["teff", "fe_h"], fixed={"logg": 4.0, "vmic": 1.5, "mg_fe": 0.2, "he_frac": 0.1})
    labels = labels_of(p, teff=5000.0, fe_h=-1.0)
    assert (labels["logg"], labels["vmic"], labels["he_frac"]) == (4.0, 1.5, 0.1)
    assert labels["mg_h"] == pytest.approx(-0.8)


def test_without_iron_abundances_are_solar():
    labels = labels_of(make(["teff", "mg_fe"], fixed={"logg": 4.0, "vmic": 1.0}),
                       teff=5000.0, mg_fe=0.1)
    assert (labels["fe_h"], labels["ca_h"], labels["mg_h"]) == (0.0, 0.0, 0.1)


def test_a_tied_ratio_moves_with_its_master():
    p = make([*SUN, "fe_h", "mg_fe"], tied={"ca_fe": "mg_fe", "c_fe": "mg_fe"})
    labels = labels_of(p, **SUN, fe_h=-0.5, mg_fe=0.3)
    assert labels["ca_h"] == labels["c_h"] == labels["mg_h"] == pytest.approx(-0.2)


def test_stages_are_free_fixed_or_at_their_defaults():
    p = make([*SUN, "rv"], fixed={"vsini": 3.0}, resolution=47_000)
    assert stages_of(p, **SUN, rv=-12.0) == {
        "rv": -12.0, "vsini": 3.0, "vmac": 0.0, "resolution": 47_000, "epsilon": 0.6}
    p = make([*SUN, "resolution", "epsilon"])
    assert stages_of(p, **SUN, resolution=9e4, epsilon=0.3) == {
        "rv": 0.0, "vsini": 0.0, "vmac": 0.0, "resolution": 9e4, "epsilon": 0.3}


def test_by_default_what_the_emulator_lacks_or_the_user_fixes_is_left_out():
    assert make().names == ("teff", "logg", "vmic", "fe_h", "mg_fe", "c_fe", "ca_fe", "rv", "vsini")
    p = make(fixed={"vmic": 1.0, "mg_h": 0.1}, tied={"ca_fe": "fe_h"})
    assert p.names == ("teff", "logg", "fe_h", "c_fe", "rv", "vsini")
    assert set(p.names) <= set(DEFAULT_FREE)


def test_names_units_and_typical_sizes_go_together():
    p = make([*SUN, "fe_h", "mg_fe", "rv", "resolution", "epsilon"], resolution=30_000)
    assert p.units == ("K", "dex", "km/s", "dex", "dex", "km/s", "", "")
    assert p.scale.shape == (len(p),) == (8,)
    assert (p.scale > 0).all()
    assert p.scale[p.names.index("resolution")] == 3_000


def test_unknown_names_are_listed_beside_the_valid_ones():
    message = refusal(["teff", "logg", "vmic", "mgfe"])
    assert "unknown parameter 'mgfe' (did you mean mg_fe?)" in message
    assert all(name in message for name in (*LABELS.names, "ca_fe", *STAGES))
    assert "'xx'" in refusal(fixed={"xx": 1.0})
    assert "'xx'" in refusal(tied={"mg_fe": "xx"})


def test_a_parameter_said_twice_is_refused():
    assert "fe_h: say it once" in refusal([*SUN, "fe_h"], fixed={"fe_h": 0.0})
    assert "teff: say it once" in refusal(["teff", *SUN])
    assert "mg_fe: say it once" in refusal(
        [*SUN, "fe_h"], fixed={"mg_fe": 0.1}, tied={"mg_fe": "fe_h"})
    assert "given more than once: mg_h" in refusal([*SUN, "fe_h", "mg_fe"], fixed={"mg_h": 0.1})


def test_a_parameter_can_only_be_tied_to_a_free_one():
    message = refusal([*SUN, "fe_h"], tied={"ca_fe": "mg_fe"})
    assert message == "mg_fe: a parameter can only be tied to a free one"
    assert "c_fe: " in refusal([*SUN, "fe_h", "mg_fe"], tied={"c_fe": "mg_fe", "ca_fe": "c_fe"})


def test_a_label_without_a_value_is_named():
    assert "no value for teff, vmic" in refusal(["logg", "fe_h"])


def test_nothing_free_is_refused():
    assert "nothing is free" in refusal([], fixed={**SUN, "fe_h": 0.0})


def test_a_fixed_value_outside_the_domain_is_named():
    message = refusal(["logg", "fe_h"], fixed={"teff": 8000.0, "vmic": 1.0})
    assert "teff = 8000" in message
    assert "teff must be at most 7000" in message
    message = refusal(["fe_h"], fixed={"teff": 6900.0, "logg": 2.0, "vmic": 1.0})
    assert "teff = 6900, logg = 2, but 0.001 teff - logg must be at most 3.5" in message
    message = refusal([*SUN, "fe_h"], fixed={"mg_fe": 0.7})
    assert "mg_h" in message
    assert not re.search(r"label \d", message)


def test_a_fixed_stage_outside_its_limits_is_named():
    message = refusal([*SUN, "fe_h"], fixed={"vsini": -3.0})
    assert message == "vsini = -3 is fixed, but must lie between 0 and 300 km/s"
    assert "epsilon = 1.5" in refusal([*SUN], fixed={"epsilon": 1.5})


def test_fixed_values_that_leave_no_room_are_refused():
    message = refusal(["teff", "vmic", "fe_h", "c_fe"], fixed={"logg": 0.4})
    assert "logg must be" in message or "- logg" in message
    # teff may be no more than 4500 K at this gravity, and must be 5000 K by a tie of its own.
    narrow = Domain(np.vstack([DOMAIN.A, -np.eye(8)[[0]]]), np.append(DOMAIN.b, -5000.0))
    with pytest.raises(ValueError, match="no point satisfies"):
        make_parameters(LABELS, narrow, free=["teff", "vmic"], fixed={"logg": 1.0})


@pytest.mark.parametrize(("free", "options"), [
    (None, {}),
    (["teff", "logg", "fe_h"], {"fixed": {"vmic": 1.2, "mg_fe": 0.25}}),
    ([*SUN, "fe_h", "mg_fe", "resolution"], {"tied": {"ca_fe": "mg_fe"}}),
    ([*SUN, "mg_h", "fe_h", "vsini", "epsilon"], {"fixed": {"rv": 12.0}}),
])
def test_limits_are_the_domain_and_the_stages(free, options):
    p = make(free, **options)
    rng = np.random.default_rng(8)
    low, high = DOMAIN_LOW, DOMAIN_HIGH = np.array(LABELS.low), np.array(LABELS.high)
    width = dict(zip(LABELS.names, (high - low) / 2, strict=True))
    middle = dict(zip(LABELS.names, (DOMAIN_LOW + DOMAIN_HIGH) / 2, strict=True))
    stages = {"rv": (0.0, 2500.0), "vsini": (150.0, 200.0), "resolution": (1e5, 1.3e5),
              "epsilon": (0.5, 0.7)}
    centre = np.array([stages[n][0] if n in stages else middle.get(n, 0.0) for n in p.names])
    spread = np.array([stages[n][1] if n in stages else 1.2 * width.get(n, 0.4) for n in p.names])
    spread[[n == "mg_h" for n in p.names]] = 0.5
    theta = centre + spread * rng.uniform(-1, 1, size=(20_000, len(p))) ** 3
    labels, stage = theta @ p.A.T + p.b, theta @ p.stage_A.T + p.stage_b
    margin = (DOMAIN.b - labels @ DOMAIN.A.T).min(axis=1)
    for i, (name, (_, limits, _)) in enumerate(STAGES.items()):
        bottom, top = (5e4, 2e5) if name == "resolution" and name in p.names else limits
        margin = np.minimum(margin, np.minimum(top - stage[:, i], stage[:, i] - bottom))
    inside = (theta @ p.G.T <= p.h).all(axis=1)
    # On the faces themselves the rounding of float32 labels is forgiven.
    clear = np.abs(margin) > 0.02
    assert 100 < inside.sum() < len(theta) - 100
    np.testing.assert_array_equal(inside[clear], (margin > 0)[clear])


def test_with_limits_narrows_a_free_parameter_and_ignores_a_fixed_one():
    p = make([*SUN, "fe_h", "rv"])
    theta = np.array([*SUN.values(), 0.0, 50.0])
    narrowed = p.with_limits("rv", 10.0, 40.0)
    assert (p.G @ theta <= p.h).all()
    assert not (narrowed.G @ theta <= narrowed.h).all()
    theta[-1] = 39.0
    assert (narrowed.G @ theta <= narrowed.h).all()
    assert p.with_limits("vsini", 0.0, 1.0) is p


def test_a_free_resolution_stays_near_the_instruments():
    p = make([*SUN, "resolution"], resolution=20_000)
    for value, allowed in ((9_000, False), (11_000, True), (39_000, True), (41_000, False)):
        assert (p.G @ [*SUN.values(), value] <= p.h).all() == allowed


def test_at_limit_names_the_parameters_at_a_face():
    p = make([*SUN, "fe_h", "mg_fe", "rv", "vsini"]).with_limits("rv", -30.0, 30.0)

    def at(**changes):
        values = {**SUN, "fe_h": 0.0, "mg_fe": 0.0, "rv": 3.0, "vsini": 5.0, **changes}
        return p.at_limit(np.array([values[n] for n in p.names]))

    assert at() == []
    assert at(teff=7000.0) == ["teff"]
    assert at(teff=6000.0, logg=2.5) == ["teff", "logg"]      # the joint limit names both
    assert at(mg_fe=0.4, rv=-30.0) == ["mg_fe", "rv"]
    assert at(vsini=0.0) == []                                # the end of a scale, not a limit
    assert at(vsini=300.0) == ["vsini"]
    assert at(teff=6990.0) == []
