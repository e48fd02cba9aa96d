"""Claims about records: what goes into the index comes out, sequence first, and tombstones keep nothing of anybody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core.measure import (
    FOREVER_MS,
    NINE_ITEMS,
    NO_BIRTH_DATE,
    Item,
    Kind,
    Measure,
    Role,
    State,
    Window,
    decode,
    encode_record,
    encode_window,
    exemption_field,
    is_active,
    record_field,
    tombstone,
)
from checker.index.base import newer
from tests.builders import KEY, a_measure

SEQUENCES = st.integers(1, 2**53 - 1)
MOMENTS = st.integers(-(2**62), 2**62)
IDS = st.text("abcXYZ019-_.", min_size=1, max_size=64)
WINDOWS = st.builds(Window, st.integers(0, 0xFFFF), MOMENTS, MOMENTS)
MEASURES = st.builds(
    Measure,
    measure_id=IDS,
    sequence=SEQUENCES,
    state=st.sampled_from([int(state) for state in State]),
    kind=st.sampled_from([int(kind) for kind in Kind]),
    role=st.sampled_from([int(role) for role in Role]),
    items=st.integers(0, 0xFFFF),
    items_named=st.booleans(),
    disputed=st.booleans(),
    effective_from_ms=MOMENTS,
    effective_to_ms=MOMENTS,
    adult_from_day=st.integers(-(2**31), 2**31 - 1),
    names=st.lists(st.binary(min_size=6, max_size=6), max_size=16).map(b"".join),
    exemptions=st.lists(WINDOWS, max_size=3).map(tuple),
)


def stored(*measures: Measure) -> dict[bytes, bytes]:
    """The fields under one lookup key that holds these measures, exemptions numbered from 10."""
    fields = {}
    for measure in measures:
        fields[record_field(measure.measure_id)] = encode_record(measure)
        for number, window in enumerate(measure.exemptions, 10):
            fields[exemption_field(measure.measure_id, number)] = encode_window(number, window)
    return fields


@given(st.lists(MEASURES, max_size=4, unique_by=lambda measure: measure.measure_id))
def test_what_is_stored_is_read_back(measures: list[Measure]) -> None:
    """Any measures under one key, with their names and exemptions, come back as they were, each its own."""
    assert tuple(measures) == decode(stored(*measures))


@given(st.lists(MEASURES, max_size=3, unique_by=lambda measure: measure.measure_id), st.randoms())
def test_the_order_of_fields_does_not_matter(measures: list[Measure], random: object) -> None:
    """A store may give fields in any order, an exemption before its record too."""
    fields = list(stored(*measures).items())
    random.shuffle(fields)  # type: ignore[attr-defined]

    read = {measure.measure_id: measure for measure in decode(dict(fields))}

    assert read.keys() == {measure.measure_id for measure in measures}
    for measure in measures:
        assert sorted(read[measure.measure_id].exemptions) == sorted(measure.exemptions)
        assert read[measure.measure_id]._replace(exemptions=()) == measure._replace(exemptions=())


def test_a_key_nobody_listed_has_no_measure() -> None:
    """No fields, no measures."""
    assert decode({}) == ()


def test_an_exemption_without_its_record_binds_nobody() -> None:
    """What is left of a measure that was never added is no measure."""
    assert decode({exemption_field("M1", 3): encode_window(3, Window(1, 0, 1))}) == ()


@given(SEQUENCES, st.sampled_from([State.SHIELDED, State.REVOKED]))
def test_a_tombstone_keeps_nothing_of_the_person(sequence: int, state: State) -> None:
    """All that outlives a measure is a sequence and a state: no name, date, role, kind, item or period."""
    (read,) = decode({b"M1": tombstone(sequence, state)})

    assert read == Measure("M1", sequence, state, 0, 0, 0, False, False, 0, 0, NO_BIRTH_DATE, b"", ())
    assert len(tombstone(sequence, state)) == len(encode_record(a_measure(names=())))


def test_tombstones_of_two_people_are_equal() -> None:
    """A minor's tombstone and an entity's cannot be told apart."""
    assert len({tombstone(7, State.SHIELDED) for _ in range(2)}) == 1
    assert KEY.stored_name("张三") not in tombstone(7, State.SHIELDED)


@given(MEASURES, SEQUENCES)
def test_the_sequence_is_the_first_eight_bytes_big_endian(measure: Measure, sequence: int) -> None:
    """The store's own function compares sequences without knowing the rest of a record, tombstone or exemption."""
    measure = measure._replace(sequence=sequence)
    window = Window(1, 2, 3)

    for value in (encode_record(measure), tombstone(sequence, State.REVOKED), encode_window(sequence, window)):
        assert int.from_bytes(value[:8], "big") == sequence


@given(MEASURES, SEQUENCES, SEQUENCES)
def test_bytes_order_as_sequences_do(measure: Measure, one: int, other: int) -> None:
    """A higher sequence displaces a lower one; on a tie a tombstone displaces a record, REVOKED displaces SHIELDED."""
    first = encode_record(measure._replace(sequence=one, state=State.ACTIVE))
    second = encode_record(measure._replace(sequence=other, state=State.ACTIVE))

    assert newer(second, first) == (other > one)
    assert newer(tombstone(one, State.SHIELDED), first)
    assert newer(tombstone(one, State.REVOKED), tombstone(one, State.SHIELDED))
    assert not newer(first, tombstone(one, State.SHIELDED))


@given(IDS, IDS, SEQUENCES)
def test_an_exemption_is_never_taken_for_a_record(measure_id: str, other_id: str, sequence: int) -> None:
    """No measure's record shares a field with any measure's exemption, whatever bytes its sequence has."""
    assert record_field(other_id) != exemption_field(measure_id, sequence)
    fields = {
        record_field(measure_id): encode_record(a_measure(measure_id)),
        exemption_field(measure_id, sequence): encode_window(sequence, Window(1, 2, 3)),
    }
    (read,) = decode(fields)
    assert read.exemptions == (Window(1, 2, 3),)


@given(IDS, st.lists(SEQUENCES, unique=True, max_size=5))
def test_no_exemption_displaces_another(measure_id: str, sequences: list[int]) -> None:
    """Each exemption has a field of its own."""
    assert len({exemption_field(measure_id, sequence) for sequence in sequences}) == len(sequences)


@pytest.mark.parametrize(("state", "active"), [(State.ACTIVE, True), (State.SHIELDED, False), (State.REVOKED, False)])
def test_only_active_records_belong_into_a_filter(state: State, active: bool) -> None:
    """Whether a record stands is read from its bytes without decoding it."""
    assert is_active(encode_record(a_measure(state=state))) is active


def test_the_nine_items_are_all_but_the_resort_cap() -> None:
    """SPC-C 3(1) names everything the feed can name, except the policy's own cap on resorts."""
    assert {item for item in Item if item & NINE_ITEMS} == set(Item) - {Item.RESORT_SPEND}
    assert FOREVER_MS < 2**63
