"""A track against a gallery: who is ranked where, what supports a candidate, and when the answer is
unknown.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fasr_video.errors import UsageError
from fasr_video.gallery import search
from fasr_video.gallery.calibration import Band, Calibration, scale_name
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.gallery.search import (
    Mode,
    Searcher,
    SearchOptions,
    TrackQuery,
    Verdict,
    comparison_count,
)
from tests.support.vectors import (
    LENGTH,
    make_calibration,
    normalise,
    person_direction,
    probes,
    vector_near,
)


def make_photo(name: str, feature: NDArray[np.float32], number: int = 0) -> EnrolledPhoto:
    sha256 = f"{sum(map(ord, name)) * 1000 + number:064x}"
    return EnrolledPhoto(sha256, f"{name}-{number}.jpg", feature, 20.0, 60.0, 0.9, None)


NAMES = ("anna", "bert", "carla", "dora", "emil", "fred")


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "gallery", "test", "e", LENGTH) as gallery_:
        for name in NAMES:
            for k, cosine in enumerate((0.9, 0.8)):
                gallery_.add(
                    name, make_photo(name, vector_near(person_direction(name), cosine, k), k)
                )
        yield gallery_


@pytest.fixture(autouse=True)
def small_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds are those of the gallery at hand, but where a test asks for the real floor."""
    monkeypatch.setattr(search, "SMALLEST_GALLERY", 1)


def test_a_small_gallery_has_the_threshold_of_one_of_500(
    gallery: Gallery, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = searcher_of(gallery, calibration).answer(probes("anna")).threshold
    monkeypatch.setattr(search, "SMALLEST_GALLERY", 500)
    floor = searcher_of(gallery, calibration).answer(probes("anna")).threshold
    assert (
        low is not None
        and floor == calibration.bands[0].threshold(scale_name(list(Kind)), 0.03, 500).score
    )
    assert floor > low


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return make_calibration()


def searcher_of(
    gallery: Gallery,
    calibration: Calibration | None,
    mode: Mode = Mode.INVESTIGATION,
    length: int = 4,
) -> Searcher:
    return Searcher(gallery, Index.open(gallery), SearchOptions(mode, length, 0.03), calibration)


def test_each_probe_has_its_own_list_and_one_list_joins_them(
    gallery: Gallery, calibration: Calibration
) -> None:
    answer = searcher_of(gallery, calibration).answer(probes("carla"))
    assert list(answer.lists) == [Kind.BEST, Kind.POOLED, Kind.SR]
    assert all(len(hits) == 4 and hits[0].subject == "carla" for hits in answer.lists.values())
    assert answer.verdict is Verdict.CANDIDATES
    first = answer.joined[0]
    assert first.subject == "carla" and first.passes and set(first.support) == set(Kind)
    assert [c.score for c in answer.joined] == sorted(
        (c.score for c in answer.joined), reverse=True
    )


def test_a_subject_is_listed_a_single_time_by_its_nearest_template(gallery: Gallery) -> None:
    feature = vector_near(person_direction("bert"), 0.8, 1)  # one of bert's photographs, exactly
    hits = searcher_of(gallery, None).answer(TrackQuery({Kind.BEST: feature}, 16)).lists[Kind.BEST]
    assert len({h.subject for h in hits}) == len(hits) == 4
    assert hits[0].subject == "bert" and hits[0].cosine == pytest.approx(1.0, abs=1e-6)


def test_lists_are_those_of_exhaustive_comparison(gallery: Gallery) -> None:
    feature = normalise(np.random.default_rng(9).standard_normal(LENGTH))
    vectors = gallery.vectors()
    owners = gallery.templates(vectors.ids.tolist())
    best: dict[str, float] = {}
    for i, cosine in zip(vectors.ids.tolist(), (vectors.features @ feature).tolist(), strict=True):
        best[owners[i].subject] = max(cosine, best.get(owners[i].subject, -2.0))
    expected = sorted(best.items(), key=lambda x: -x[1])
    hits = (
        searcher_of(gallery, None, length=6)
        .answer(TrackQuery({Kind.BEST: feature}, 16))
        .lists[Kind.BEST]
    )
    assert [h.subject for h in hits] == [s for s, _ in expected]
    assert [h.cosine for h in hits] == pytest.approx([c for _, c in expected], abs=1e-6)


def test_tracks_searched_together_get_the_same_answers_as_alone(
    gallery: Gallery, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasr_video.gallery.search.TRACKS_PER_BATCH", 30)
    searcher = searcher_of(gallery, calibration)
    queries = [probes(name, pooled=0.5 + i / 40) for i in range(12) for name in (*NAMES, "nobody")]
    queries += [
        TrackQuery({Kind.POOLED: vector_near(person_direction("dora"), 0.7)}, 16),
        TrackQuery({}, 16),
    ]  # not all of one kind
    assert searcher.answers(queries) == [searcher.answer(one) for one in queries]


def test_a_subject_with_hundreds_of_photographs_hides_no_other_subject(gallery: Gallery) -> None:
    for k in range(300):
        gallery.add(
            "anna",
            make_photo("anna", vector_near(person_direction("anna"), 0.95, 100 + k), 100 + k),
        )
    searcher = searcher_of(gallery, None, length=6)
    queries = [
        TrackQuery({Kind.BEST: vector_near(person_direction(name), 0.9, 7)}, 16) for name in NAMES
    ]
    lists = [answer.lists[Kind.BEST] for answer in searcher.answers(queries)]
    assert [hits[0].subject for hits in lists] == list(NAMES)
    assert all({h.subject for h in hits} == set(NAMES) for hits in lists)


def test_a_stranger_is_unknown_but_investigation_still_lists_candidates(
    gallery: Gallery, calibration: Calibration
) -> None:
    answer = searcher_of(gallery, calibration).answer(probes("somebody else"))
    assert answer.verdict is Verdict.UNKNOWN
    assert len(answer.joined) == 4 and not any(c.passes for c in answer.joined)


def test_identification_names_nobody_below_the_threshold(
    gallery: Gallery, calibration: Calibration
) -> None:
    searcher = searcher_of(gallery, calibration, Mode.IDENTIFICATION)
    stranger = searcher.answer(probes("somebody else"))
    assert stranger.verdict is Verdict.UNKNOWN and stranger.joined == []
    known = searcher.answer(probes("dora"))
    assert [c.subject for c in known.joined] == ["dora"]
    assert known.threshold is not None and known.joined[0].score >= known.threshold


def test_a_candidate_supported_by_the_reconstruction_only_comes_last(
    gallery: Gallery, calibration: Calibration
) -> None:
    features = probes("anna")
    features.features[Kind.SR] = vector_near(person_direction("emil"), 0.95, 77)
    answer = searcher_of(gallery, calibration, length=6).answer(features)
    by_name = {c.subject: c for c in answer.joined}
    assert by_name["emil"].only_sr and not by_name["anna"].only_sr
    assert by_name["anna"].support == (Kind.BEST, Kind.POOLED)
    order = [(not c.passes, c.only_sr) for c in answer.joined]
    assert order == sorted(order) and order[0] == (False, False)


def test_without_a_calibration_scores_are_raw_and_the_answer_is_unknown(gallery: Gallery) -> None:
    answer = searcher_of(gallery, None).answer(probes("fred"))
    assert answer.verdict is Verdict.UNKNOWN and answer.threshold is None
    first = answer.joined[0]
    assert first.subject == "fred" and first.ratio is None and not first.passes
    assert first.score == pytest.approx(np.mean(list(first.cosines.values())))


def test_identification_without_a_calibration_is_refused(gallery: Gallery) -> None:
    with pytest.raises(UsageError, match="a threshold needs a calibration"):
        searcher_of(gallery, None, Mode.IDENTIFICATION)


def test_a_larger_gallery_has_a_higher_threshold(
    gallery: Gallery, calibration: Calibration, tmp_path: Path
) -> None:
    with Gallery.create(tmp_path / "large", "test", "e", LENGTH) as large:
        for i in range(60):
            large.add(f"s{i}", make_photo(f"s{i}", person_direction(f"s{i}"), i))
        low = searcher_of(gallery, calibration).answer(probes("anna")).threshold
        high = searcher_of(large, calibration).answer(probes("anna")).threshold
    assert low is not None and high is not None and high > low


def test_more_photographs_of_a_subject_raise_the_threshold_and_lower_its_ratio(
    calibration: Calibration, tmp_path: Path
) -> None:
    answers = []
    for photographs in (1, 2, 5):
        with Gallery.create(tmp_path / str(photographs), "test", "e", LENGTH) as gallery_:
            for k in range(photographs):
                gallery_.add("anna", make_photo("anna", person_direction("anna"), k))
            answers.append(searcher_of(gallery_, calibration).answer(probes("anna", 0.5, 0.5, 0.5)))
    ratios = [r for a in answers if (r := a.joined[0].ratio) is not None]
    assert [ratios[0] - r for r in ratios] == pytest.approx(
        [0, math.log10(4), math.log10(10)], abs=1e-3
    )
    thresholds = [a.threshold for a in answers]
    assert thresholds == [
        calibration.bands[0].threshold(scale_name(list(Kind)), 0.03, m).score for m in (1, 4, 10)
    ]


def test_many_photographs_do_not_make_a_subject_pass_for_strangers(
    calibration: Calibration, tmp_path: Path
) -> None:
    strangers = [
        TrackQuery({Kind.BEST: normalise(s)}, 16)
        for s in np.random.default_rng(9).standard_normal((64, LENGTH))
    ]
    means = []
    for photographs in (1, 3, 12):
        with Gallery.create(tmp_path / str(photographs), "test", "e", LENGTH) as gallery_:
            for name in string.ascii_letters:
                for k in range(photographs):
                    gallery_.add(
                        name,
                        make_photo(
                            name, vector_near(person_direction(name), 0.6, 100 * ord(name) + k), k
                        ),
                    )
            answers = searcher_of(gallery_, calibration, length=52).answers(strangers)
        ratios = [h.ratio for a in answers for h in a.lists[Kind.BEST]]
        means.append(np.mean([10.0**r for r in ratios if r is not None]))
    assert means[1] <= means[0] and means[2] <= means[0]


@pytest.mark.parametrize("side", [15, 17, 90])
def test_a_face_of_an_uncalibrated_size_has_no_leads(
    side: int, gallery: Gallery, calibration: Calibration
) -> None:
    """However alike: the similarity is there, raw, and nothing is made of it."""
    answer = searcher_of(gallery, calibration).answer(probes("carla", 0.99, 0.99, 0.99, side=side))
    assert answer.verdict is Verdict.UNKNOWN and answer.threshold is None
    assert answer.joined[0].subject == "carla" and answer.joined[0].cosines[Kind.BEST] > 0.8
    assert all(c.ratio is None and not c.passes for c in answer.joined)
    assert all(hit.ratio is None for hits in answer.lists.values() for hit in hits)


def test_each_face_uses_the_band_of_its_size(gallery: Gallery, calibration: Calibration) -> None:
    band = calibration.bands[0]
    halved = {
        name: replace(scale, map=replace(scale.map, values=tuple(v / 2 for v in scale.map.values)))
        for name, scale in band.scales.items()
    }
    two = replace(calibration, bands=(band, Band(17, 40, halved)))
    small, large = (
        searcher_of(gallery, two).answer(probes("carla", side=side)).joined[0].ratio
        for side in (16, 30)
    )
    penalty = math.log10(comparison_count(gallery.templates_by_subject()["carla"]))
    assert small is not None and large == pytest.approx((small + penalty) / 2 - penalty)


def test_an_empty_gallery_gives_unknown(tmp_path: Path, calibration: Calibration) -> None:
    with Gallery.create(tmp_path / "none", "test", "e", LENGTH) as none:
        answer = searcher_of(none, calibration).answer(probes("anna"))
    assert (
        answer.verdict is Verdict.UNKNOWN and answer.joined == [] and not any(answer.lists.values())
    )


def cosines_for_joined_lead(calibration: Calibration, templates: int) -> dict[Kind, float]:
    """Cosines that no probe's own threshold lets through, but the joined one does."""
    limit = {k: calibration.bands[0].threshold(k, 0.03, templates).score for k in Kind}
    joined = calibration.bands[0].threshold(scale_name(list(Kind)), 0.03, templates).score
    cosines = {k: limit[k] - 0.005 for k in Kind}
    assert calibration.bands[0].fused_score(cosines) >= joined
    return cosines


def test_who_passes_does_not_depend_on_the_mode(tmp_path: Path, calibration: Calibration) -> None:
    """Poor probes that agree: none passes alone, all together do."""
    with Gallery.create(tmp_path / "singles", "test", "e", LENGTH) as singles:
        for name in NAMES:
            singles.add(name, make_photo(name, person_direction(name)))
        cosines = cosines_for_joined_lead(calibration, singles.count())
        features = TrackQuery(
            {
                k: vector_near(person_direction("dora"), c, 90 + i)
                for i, (k, c) in enumerate(cosines.items())
            },
            16,
        )
        investigation = searcher_of(singles, calibration).answer(features)
        identification = searcher_of(singles, calibration, Mode.IDENTIFICATION).answer(features)
    assert investigation.verdict is identification.verdict is Verdict.CANDIDATES
    assert identification.joined[0].subject == investigation.joined[0].subject == "dora"
    assert identification.joined[0].support == () and not any(identification.lists.values())


def test_a_passing_candidate_is_never_cut_off_by_one_that_does_not_pass(
    gallery: Gallery, calibration: Calibration
) -> None:
    features = probes("somebody else")
    features.features[Kind.SR] = vector_near(person_direction("emil"), 0.999, 77)
    answer = searcher_of(gallery, calibration, length=1).answer(features)
    assert answer.verdict is Verdict.CANDIDATES
    assert (
        answer.joined[0].subject == "emil" and answer.joined[0].only_sr and answer.joined[0].passes
    )


def test_who_passes_does_not_depend_on_the_length_of_the_list(
    tmp_path: Path, calibration: Calibration
) -> None:
    """Second in every list, behind three others who are each first in one."""
    with Gallery.create(tmp_path / "singles", "test", "e", LENGTH) as singles:
        for name in NAMES:
            singles.add(name, make_photo(name, person_direction(name)))
        firsts = dict(zip(Kind, ("anna", "bert", "carla"), strict=True))
        features = TrackQuery(
            {
                k: normalise(1.1 * person_direction(n) + person_direction("dora"))
                for k, n in firsts.items()
            },
            16,
        )
        one, high = (searcher_of(singles, calibration, length=n).answer(features) for n in (1, 6))
    assert [hits[0].subject for hits in one.lists.values()] == list(firsts.values())
    assert all(len(hits) == 1 for hits in one.lists.values()) and len(one.joined) == 1
    assert one.verdict is high.verdict is Verdict.CANDIDATES
    assert one.joined[0].subject == high.joined[0].subject == "dora"


def test_a_ratio_at_the_bound_of_the_data_is_marked(
    gallery: Gallery, calibration: Calibration
) -> None:
    first, *_, last = (
        searcher_of(gallery, calibration).answer(probes("anna", 0.99, 0.99, 0.99)).joined
    )
    low, high = (
        bound - math.log10(comparison_count(3)) for bound in calibration.bands[0].bounds(list(Kind))
    )
    assert first.at_bound and first.ratio == pytest.approx(high)
    assert last.at_bound == (last.ratio == pytest.approx(low))
