"""Claims about the canary of imports: lost additions are noticed, and nothing else is taken for them."""

from edge.canary import Arrivals

WAIT_S = 300.0


def an_edge(sequence: int = 100) -> Arrivals:
    """One that took its snapshot into use at second 0."""
    made = Arrivals(WAIT_S)
    made.adopted(sequence, 0.0)
    return made


def test_a_feed_that_advances_without_a_canary_is_missed() -> None:
    """After the wait, not before it, and until the canary comes."""
    edge = an_edge()
    assert not edge.missing(101, 1000.0)
    assert not edge.missing(101, 1300.0)
    assert edge.missing(101, 1301.0)
    assert edge.missing(105, 9000.0)
    edge.added(9000.5, canary=False)  # of the next import: what was lost is still lost
    assert edge.missing(105, 9000.6)
    edge.added(9001.0, canary=True)
    assert not edge.missing(105, 9002.0)
    assert not edge.missing(105, 90_000.0)


def test_an_import_without_additions_is_no_loss() -> None:
    """Heartbeats and removals only: the canary comes, then the feed advances. Days may pass until the next import."""
    edge = an_edge()
    for day in range(1, 5):
        edge.added(day * 86_400.0, canary=True)
        assert not edge.missing(100 + day, day * 86_400 + 5.0)
        assert not edge.missing(100 + day, day * 86_400 + 40_000.0)


def test_an_import_of_an_hour_is_no_loss() -> None:
    """The feed advances with each batch of additions, the canary comes last. One that breaks off is missed."""
    edge = an_edge()
    for batch in range(360):
        edge.added(1000.0 + 10 * batch, canary=False)
        assert not edge.missing(101 + batch, 1001.0 + 10 * batch)
    assert not edge.missing(460, 4890.0)
    assert edge.missing(460, 4892.0)
    edge.added(4900.0, canary=True)
    assert not edge.missing(500, 4901.0)
    assert not edge.missing(500, 90_000.0)


def test_a_start_and_another_snapshot_are_no_loss() -> None:
    """What was imported while the edge was down, or is in the snapshot already, did not come by the stream."""
    edge = an_edge(sequence=100)
    assert not edge.missing(5000, 2.0)
    assert not edge.missing(5000, 90_000.0)
    assert not edge.missing(5001, 90_001.0)
    assert edge.missing(5001, 90_400.0)
    edge.adopted(5001, 90_500.0)
    assert not edge.missing(5002, 90_501.0)  # its import's last word, the canary being in the snapshot
    assert not edge.missing(5002, 180_000.0)


def test_a_centre_restored_from_a_backup_is_no_loss() -> None:
    """Its feed is known less far; where it advances from there counts."""
    edge = an_edge(sequence=5000)
    edge.adopted(80, 1000.0)
    assert not edge.missing(80, 2000.0)
    assert not edge.missing(81, 2001.0)
    assert edge.missing(81, 2400.0)
