"""The edge: answers beside the booking system, in microseconds, with or without the centre.

    from edge import DocumentType, EdgeClient, Train

    async with EdgeClient("centre:50051", "/var/lib/edge", "/etc/edge/key.json", tls=tls) as edge:
        answer = await edge.check(Train("G1", "O", "二等座"), DocumentType.RESIDENT_ID, number, name=name)
        if not answer.may_sell:
            show(answer.notice, answer.alternatives, answer.decision_id)

`BlockingEdgeClient` is the same for threads, `RemoteChecker` for those who deploy no edge. `edge serve` is the edge as
a node beside the booking system, with the checker's own CheckService. See docs/edge.md.
"""

from checker.core.decision import Advisory, AnsweredBy, Outcome, Reason
from checker.core.document import DocumentType
from checker.core.purchase import (
    Construction,
    ConstructionKind,
    DomesticTour,
    Flight,
    Insurance,
    Lodging,
    Money,
    OfficeLease,
    OutboundService,
    OutboundServiceKind,
    OutboundTour,
    Purchase,
    RealEstate,
    RealEstateDeal,
    Resort,
    School,
    Ship,
    Train,
    Vehicle,
    VehicleKind,
    VehicleUse,
    Venue,
    VenueKind,
)
from checker.core.rules import Text
from checker.errors import CheckerError, UsageError
from edge.advice import Advice
from edge.answer import Answer, DataAsOf
from edge.assembly import EdgeSettings
from edge.blocking import BlockingEdgeClient
from edge.centre import ClientTls
from edge.client import EdgeClient
from edge.remote_checker import RemoteChecker
from edge.request import Item, cny

__all__ = [
    "Advice",
    "Advisory",
    "Answer",
    "AnsweredBy",
    "BlockingEdgeClient",
    "CheckerError",
    "ClientTls",
    "Construction",
    "ConstructionKind",
    "DataAsOf",
    "DocumentType",
    "DomesticTour",
    "EdgeClient",
    "EdgeSettings",
    "Flight",
    "Insurance",
    "Item",
    "Lodging",
    "Money",
    "OfficeLease",
    "OutboundService",
    "OutboundServiceKind",
    "OutboundTour",
    "Outcome",
    "Purchase",
    "RealEstate",
    "RealEstateDeal",
    "Reason",
    "RemoteChecker",
    "Resort",
    "School",
    "Ship",
    "Text",
    "Train",
    "UsageError",
    "Vehicle",
    "VehicleKind",
    "VehicleUse",
    "Venue",
    "VenueKind",
    "cny",
]
