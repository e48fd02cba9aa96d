"""Claims about `checker.lists.names`: whichever way a counter writes a listed person's name, it agrees."""

import subprocess
import sys

import opencc
import pytest

from checker.core.measure import NAME_DIGEST_BYTES
from checker.core.name import canonical
from checker.lists import names
from checker.lists.names import MAX_LATIN, MAX_TRADITIONAL, digests, forms
from tests.lists.builders import KEY


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("张三", "张三"),
        ("张三", "張三"),
        ("张三", "ZHANG/SAN"),
        ("张三", "Zhang San"),
        ("張三", "张三"),
        ("張三", "ZHANGSAN"),
        ("张 三", "张三"),
        ("单雄信", "SHAN/XIONGXIN"),
        ("曾国", "ZENG/GUO"),
        ("仇英", "QIU/YING"),
        ("尉迟恭", "YUCHI/GONG"),
        ("万俟卨", "MOQI/XIE"),
        ("吕布", "LYU/BU"),
        ("吕布", "LV/BU"),
        ("吕布", "LÜ/BU"),
        ("女娲", "NYU/WA"),
        ("范于", "范于"),
        ("范文", "範文"),
        ("于谦", "于謙"),
        ("钟里", "鍾里"),
        ("钟里", "鐘裡"),
        ("沈万", "沈萬"),
        ("阿凡提·买买提", "阿凡提・买买提"),
        ("阿凡提·买买提", "阿凡提·買買提"),
        ("John Smith", "JOHN/SMITH"),
        ("𠮷田", "𠮷田"),
    ],
)
def test_a_name_agrees_with_its_other_writings(name: str, written: str) -> None:
    """Simplified and traditional characters, pinyin with surname readings, ü both ways: one person."""
    stored = digests(name, "", KEY)
    wanted = KEY.stored_name(canonical(written))
    assert wanted in [stored[start : start + NAME_DIGEST_BYTES] for start in range(0, len(stored), NAME_DIGEST_BYTES)]


@pytest.mark.parametrize(
    ("name", "written"),
    [("张三", "章三"), ("张三", "ZHANG/SI"), ("张三", "张三丰"), ("张三", "三张"), ("张三", ""), ("吕布", "LI/BU")],
)
def test_another_name_does_not_agree(name: str, written: str) -> None:
    """Nothing is fuzzy: another character or syllable is another person."""
    assert canonical(written) not in forms(name, "")


def test_the_name_in_latin_letters_goes_before_the_readings() -> None:
    """Where the feed gives it, nobody guesses."""
    found = forms("买买提", "MEMET/TURSUN")
    assert "MEMETTURSUN" in found
    assert not any(form.startswith("MAI") for form in found)


def test_an_entity_is_not_spelt() -> None:
    """A company has no passport."""
    assert not any(form.isascii() for form in forms("合成贸易有限公司", "", person=False))


def test_the_number_of_forms_is_bounded() -> None:
    """Many readings of many characters: the likeliest are kept, and each form once."""
    found = forms("单行曾乐朴盖重", "")
    latin = [form for form in found if form.isascii()]
    assert len(latin) == MAX_LATIN
    assert latin[0].startswith("SHAN")
    assert len(found) <= 2 + MAX_TRADITIONAL + MAX_LATIN
    assert len(set(found)) == len(found)


def test_every_form_is_canonical() -> None:
    """The caller's name is made canonical and digested, so a form that is not could never agree."""
    for name in ("张三", "呂布", "尉迟恭", "阿凡提·买买提", "Müller, Jörg", "女略"):
        assert all(canonical(form) == form for form in forms(name, ""))


def test_digests_are_the_forms_in_order() -> None:
    """Six bytes each, concatenated."""
    assert digests("张三", "", KEY) == b"".join(KEY.stored_name(form) for form in forms("张三", ""))


def test_every_character_is_written_as_opencc_writes_it_in_each_region() -> None:
    """The regional tables behind s2t give what s2tw and s2hk give, for each character of its own."""
    whole = [opencc.OpenCC(config).convert for config in ("s2t", "s2tw", "s2hk")]
    for char in map(chr, (*range(0x3400, 0xA000), *range(0xF900, 0xFB00), *range(0x20000, 0x20400))):
        wanted = list(dict.fromkeys(convert(char) for convert in whole))
        assert list(names._traditional(char))[: len(wanted)] == wanted


def test_the_importer_loads_readings_without_phrases() -> None:
    """Every `checker import` would wait for pypinyin's phrases, of which it uses none."""
    said = "import checker.lists.importer, sys; print([name for name in sys.modules if 'phrases' in name])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
