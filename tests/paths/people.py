"""People nobody can be, the feed lines about them and the questions about them."""

from datetime import UTC, datetime
from typing import Any

from proto.checker.v1 import check_pb2 as pb

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643, ISO 7064 MOD 11-2
COURT = "合成市第一人民法院"
NAME = "章试试"


def resident_id(number: int) -> str:
    """The `number`th resident ID born in the 1880s; up to 27 000."""
    day, serial = divmod(number, 100)
    month, day = divmod(day, 27)
    body = f"440524188{month // 12 % 10}{month % 12 + 1:02}{day + 1:02}{serial + 100:03}"
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, body, strict=True))
    return body + "10X98765432"[total % 11]


def now() -> str:
    """This moment as the feed writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def add(sequence: int, measure_id: str, *numbers: str, name: str = NAME, **more: Any) -> dict[str, Any]:
    """An order naming no items, against the person with these documents."""
    papers = [{"type": "RESIDENT_ID", "number": number} for number in numbers]
    line = {
        "seq": sequence,
        "time": now(),
        "op": "add",
        "measure_id": measure_id,
        "kind": "order",
        "court": COURT,
        "case_number": f"（2024）浙0102执{sequence}号",
        "effective_from": "2024-01-01",
        "subjects": [{"role": "DEBTOR_PERSON", "name": name, "documents": papers}],
    }
    return line | more


def remove(sequence: int, measure_id: str, op: str = "remove") -> dict[str, Any]:
    """The end of a measure."""
    return {"seq": sequence, "time": now(), "op": op, "measure_id": measure_id, "reason": "PERFORMED"}


def exempt(sequence: int, measure_id: str) -> dict[str, Any]:
    """A court lets flights and trains of a whole century pass."""
    window = {"kind": "TEMPORARY_LIFT", "valid_from": "2000-01-01", "valid_to": "2099-12-31"}
    return {"seq": sequence, "time": now(), "op": "exempt", "measure_id": measure_id, "exemption": window}


def heartbeat(sequence: int) -> dict[str, Any]:
    """A sign of life."""
    return {"seq": sequence, "time": now(), "op": "heartbeat"}


def flight(number: str, **more: Any) -> pb.CheckRequest:
    """May this document buy a flight?"""
    document = pb.Document(type=pb.DOCUMENT_TYPE_RESIDENT_ID, number=number)
    return pb.CheckRequest(subject=pb.Subject(document=document), purchase=pb.Purchase(flight=pb.Flight()), **more)


def hard_seat(number: str) -> pb.CheckRequest:
    """A purchase nobody can be barred from."""
    request = flight(number)
    request.purchase.train.CopyFrom(pb.TrainSeat(train_code="K101", seat_code="1", seat_name="硬座"))
    return request
