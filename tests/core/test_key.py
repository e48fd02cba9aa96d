"""Claims about the lookup key: one derivation for ever, equal documents one key, different documents never."""

import hashlib
import hmac
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checker.core import name as names
from checker.core.document import Document, DocumentType, Parsed, parse
from checker.core.key import DIGEST_BYTES, SECRET_BYTES, Algorithm, DigestKey
from checker.core.measure import NAME_DIGEST_BYTES

TODAY = 20260310
SECRET = bytes(range(32))
KEYS = {algorithm: DigestKey("test-1", algorithm, SECRET) for algorithm in Algorithm}
T = DocumentType

# Digests under the secret 00 01 ... 1f. Their like lie in every index, snapshot and edge: a change breaks them all.
GOLDEN = [
    (
        Document(T.RESIDENT_ID, "440524188001010014", ""),
        "07d94aabe0b7b52ba48b5f2b8342719f",
        "671b915f923ac683c05fd0e514cee0c0",
    ),
    (
        Document(T.FOREIGN_PASSPORT, "E00001234", "XAA"),
        "c0edb65c3959f9e58a9d04191b4b7247",
        "193727dba8cc9742667447786dfe92eb",
    ),
    (
        Document(T.OTHER, "军字0001", ""),
        "fbff277b788be1b2183c346bb60443ee",
        "f3738c50c9e45636790cd3983b272711",
    ),
]
GOLDEN_CHECK = {
    Algorithm.BLAKE2B_128: "ccae1e79c84b4bfefe8e61443c980a1b",
    Algorithm.HMAC_SM3: "a0454c85158f3926810bfc2842e4ba52",
}
GOLDEN_NAME = {
    Algorithm.BLAKE2B_128: "79e6e126f4e440989b99a7355f517dfa",
    Algorithm.HMAC_SM3: "3f76cc793370a65778ce01941fdefa9c",
}


@pytest.mark.parametrize(("document", "blake2b", "sm3"), GOLDEN)
def test_a_document_has_the_digest_it_always_had(document: Document, blake2b: str, sm3: str) -> None:
    """The derivation of a lookup key is that of the indexes and edges already out there, under either algorithm."""
    assert (blake2b, sm3) == (
        KEYS[Algorithm.BLAKE2B_128].document(document).hex(),
        KEYS[Algorithm.HMAC_SM3].document(document).hex(),
    )


@pytest.mark.parametrize("algorithm", Algorithm)
def test_check_value_and_name_have_the_digests_they_always_had(algorithm: Algorithm) -> None:
    """Check value and name digests are those already stored; a record keeps the first six bytes of a name's."""
    key = KEYS[algorithm]

    assert GOLDEN_CHECK[algorithm] == key.check_value.hex()
    assert GOLDEN_NAME[algorithm] == key.name("张三").hex()
    assert key.stored_name("张三") == key.name("张三")[:NAME_DIGEST_BYTES]


def test_the_derivation_is_the_documented_one() -> None:
    """MAC(key, 01, type, country, number), each field length-prefixed, cut to 16 bytes: a second hand gets the same."""
    payload = b"\x01" + bytes([T.FOREIGN_PASSPORT]) + b"\x03XAA" + b"\x09E00001234"
    document = Document(T.FOREIGN_PASSPORT, "E00001234", "XAA")

    assert (
        hashlib.blake2b(payload, key=SECRET, digest_size=16).digest(),
        hmac.digest(SECRET, payload, "sm3")[:16],
    ) == (KEYS[Algorithm.BLAKE2B_128].document(document), KEYS[Algorithm.HMAC_SM3].document(document))


MESS = {
    T.RESIDENT_ID: [
        "11010519491231002X",
        "11010519491231002x",
        "１１０１０５１９４９１２３１００２Ｘ",
        "110105 19491231 002X",
        "110105-1949-1231-002x",
        "\u200b110105194912310 02Х",  # zero-width space, Cyrillic Х
        "110105.1949.1231.002Ⅹ",
        "\t11010519491231002X\n",
    ],
    T.PRC_PASSPORT: ["E00001234", "e00001234", "Ｅ００００１２３４", "E 0000 1234", "E-0000-1234"],
    T.HK_MACAU_TRAVEL_PERMIT: ["H00001234", "h0000 1234", "H0000123401", "Ｈ00001234", "H0000-1234-02"],
    T.TAIWAN_TRAVEL_PERMIT: ["00001234", "0000 1234", "０００0-1234"],
    T.UNIFIED_SOCIAL_CREDIT_CODE: ["91710000MA0000001L", "91710000ma0000001l", "91710000-MA000000-1L"],
    T.ORGANISATION_CODE: ["D2143569-X", "d2143569x", "Ｄ２１４３５６９-Ｘ", "D 2143569 - x"],
}


def key_of(kind: int, raw: str, country: str = "", algorithm: Algorithm = Algorithm.BLAKE2B_128) -> bytes:
    parsed = parse(kind, raw, country, TODAY)
    assert isinstance(parsed, Parsed), (kind, parsed)
    (document,) = parsed.documents
    return KEYS[algorithm].document(document)


def spellings(kind: DocumentType) -> list[str]:
    found = MESS[kind]
    if kind is T.UNIFIED_SOCIAL_CREDIT_CODE:  # area 710000; the check character is looked for, not computed here
        stem = "91710000MA0000001"
        check = next(
            char
            for char in "0123456789ABCDEFGHJKLMNPQRTUWXY"
            if isinstance(parse(kind, stem + char, "", TODAY), Parsed)
        )
        found = [text[:-1] + (check.lower() if text.islower() else check) for text in found]
    return found  # fmt: skip


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("kind", MESS)
def test_all_spellings_of_a_document_have_one_key(kind: DocumentType, algorithm: Algorithm) -> None:
    """Width, case, spaces, hyphens, dots, invisible marks and look-alikes of X make no other key."""
    keys = {key_of(kind, raw, algorithm=algorithm) for raw in spellings(kind)}

    assert len(keys) == 1


def test_a_15_digit_number_and_its_upgrade_have_one_key() -> None:
    """A resident ID of before 1999 is looked up under its 18-digit form."""
    assert key_of(T.RESIDENT_ID, "710000800101001") == key_of(T.RESIDENT_ID, "710000198001010010")


def test_a_declared_type_makes_no_other_key_within_the_18_digit_family() -> None:
    """The number tells an ID, a permit and a foreigner's card apart, so what was declared cannot hide a record."""
    for number in ("440524188001010014", "810000199408230021", "911840188001010014"):
        keys = {
            key_of(kind, number) for kind in (T.RESIDENT_ID, T.HMT_RESIDENCE_PERMIT, T.FOREIGN_PERMANENT_RESIDENT_ID)
        }
        assert len(keys) == 1  # fmt: skip


documents = st.builds(
    Document,
    st.integers(0, 12),
    st.text("0AX", max_size=6),
    st.text("0AX", max_size=6),
)


@given(documents, documents)
def test_different_documents_never_share_a_key(one: Document, other: Document) -> None:
    """Lengths go before fields: nothing moved between type, country and number gives another document's key."""
    for key in KEYS.values():
        assert (one == other) == (key.document(one) == key.document(other))


def test_no_split_of_one_text_into_country_and_number_shares_a_key() -> None:
    """Every way to cut a text into country and number is another document."""
    text = "XAAXAA00001234"
    made = {KEYS[Algorithm.BLAKE2B_128].document(Document(6, text[at:], text[:at])) for at in range(len(text) + 1)}

    assert len(made) == len(text) + 1


@given(st.text(max_size=60))
def test_a_name_never_has_a_documents_digest(text: str) -> None:
    """Names and documents are digested for different purposes: equal texts never give equal digests."""
    canonical = names.canonical(text)
    for key in KEYS.values():
        digest = key.name(canonical)
        assert len(digest) == DIGEST_BYTES
        assert digest != key.check_value
        assert all(digest != key.document(Document(kind, canonical[:60], "")) for kind in range(13))


def test_every_secret_and_algorithm_has_its_own_check_value() -> None:
    """Whoever holds another secret, be it one bit off, or another algorithm under the same id, is found out."""
    secrets = [SECRET, bytes(32), *(bytes([*SECRET[:at], SECRET[at] ^ 1, *SECRET[at + 1 :]]) for at in range(32))]
    values = {DigestKey("same", algorithm, secret).check_value for algorithm, secret in product(Algorithm, secrets)}

    assert len(values) == 2 * len(secrets)


def test_the_id_is_no_part_of_the_digest() -> None:
    """A key renamed is the same key: ids are labels."""
    renamed = DigestKey("other", Algorithm.BLAKE2B_128, SECRET)

    assert renamed.check_value == KEYS[Algorithm.BLAKE2B_128].check_value


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_secret_of_another_length_is_refused(algorithm: Algorithm, length: int) -> None:
    """A secret is 32 bytes; the refusal names the key and the length, and shows nothing of the secret."""
    with pytest.raises(ValueError, match=f"'test-1'.*{SECRET_BYTES} bytes, not {length}$") as raised:
        DigestKey("test-1", algorithm, b"\xab" * length)
    assert "ab" * 8 not in str(raised.value)
    assert "\\xab" not in str(raised.value)


@pytest.mark.parametrize("key_id", ["", "k" * 33, "钥匙", "k\n1", "k\x00"])
def test_an_id_that_cannot_be_shown_is_refused(key_id: str) -> None:
    """Ids are 1 to 32 printable ASCII characters: they stand in files, logs and refusals."""
    with pytest.raises(ValueError, match="1 to 32 printable ASCII characters"):
        DigestKey(key_id, Algorithm.BLAKE2B_128, SECRET)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_shows_nothing_of_its_secret(algorithm: Algorithm) -> None:
    """Printing a key, as a traceback or a debugger would, shows no byte of the secret."""
    shown = repr(DigestKey("test-1", algorithm, b"\xabSECRET-SECRET-SECRET-SECRET-123"))

    assert "SECRET" not in shown


def test_the_canary_is_a_key_of_its_own() -> None:
    """The canary is neither the check value nor what any sealed message, name or document of the golden list has."""
    for algorithm, key in KEYS.items():
        taken = {key.check_value, key.seal(b"x", b""), key.name("张三"), *(key.document(one) for one, _, _ in GOLDEN)}
        assert key.canary not in taken
        assert key.canary == DigestKey("another-id", algorithm, SECRET).canary
