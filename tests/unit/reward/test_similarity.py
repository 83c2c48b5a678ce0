import math
import sys
import time
from pathlib import Path
from random import Random
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from similarity import plain_similarity, program
from turnwise.reward.similarity import embedding, lexical
from turnwise.reward.similarity.embedding import EmbeddingSimilarity
from turnwise.reward.similarity.lexical import LexicalSimilarity
from turnwise.reward.similarity.structure import StructureSimilarity

PACKAGE = Path(__file__).parents[3] / "src" / "turnwise"
SOURCES_OF_THE_PACKAGE = sorted(PACKAGE.rglob("*.py"))
LOOP = """
total = 0
for number in range(10):  # ten of them
    total += number * 3
print("total", total)
"""
LOOP_RENAMED = """
acc = 0
for i in range(10):
        acc += i * 3

print('the sum is', acc)
"""
LOOP_OTHER_NUMBER = LOOP.replace("3", "4")
FORMULA = "print(3 * sum(range(10)))"

SOURCES = st.one_of(
    st.text(max_size=80), st.text(alphabet="ab1'\"\n \t#()[]:.;=+\\", max_size=80), st.sampled_from([LOOP, FORMULA])
)


def test_cosine_by_hand():
    # tokens a = "print ( 1 + 2 )", b = "print ( 1 + 3 )": trigrams of each
    #   print ( 1 | ( 1 + | 1 + 2 | + 2 )      and      print ( 1 | ( 1 + | 1 + 3 | + 3 )
    # two of four in common, each once: 2 / (sqrt(4) * sqrt(4)) = 0.5
    assert LexicalSimilarity(ngram=3)("print(1+2)", "print(1+3)") == 0.5


def test_counts_matter():
    # unigrams: a = {1: 2, +: 1}, b = {1: 3, +: 2}: (2*3 + 1*2) / (sqrt(5) * sqrt(13))
    assert LexicalSimilarity(ngram=1)("1+1", "1+1+1") == pytest.approx(8 / math.sqrt(65), abs=1e-15)


def test_shorter_programs_than_the_ngram_are_one_sequence():
    assert LexicalSimilarity(ngram=3)("1", "1") == 1.0
    assert LexicalSimilarity(ngram=3)("1", "2") == 0.0


def test_names_comments_layout_and_labels_do_not_count():
    assert LexicalSimilarity()(LOOP, LOOP_RENAMED) == 1.0


def test_numbers_and_operations_count():
    similarity = LexicalSimilarity()
    assert similarity(LOOP, FORMULA) < similarity(LOOP, LOOP_OTHER_NUMBER) < 1.0


@pytest.mark.parametrize(
    ("code", "other"),
    [
        ("print(min(a))", "print(max(a))"),
        ("import math\nmath.gcd(4, 6)", "import math\nmath.lcm(4, 6)"),
        ("import sympy\nsympy", "import numpy\nnumpy"),
        ("from math import gcd\ngcd(4, 6)", "from math import lcm\nlcm(4, 6)"),
        ("for x in y: break", "for x in y: continue"),
    ],
)
def test_builtins_keywords_attributes_and_imported_names_count(code, other):
    assert LexicalSimilarity(ngram=2)(code, other) < 1.0


def test_imported_names_are_kept_where_they_are_used():
    # in common, once each: import . f ( ); alone: a three times, against b three times. 5 / (5 + 3 * 3)
    assert LexicalSimilarity(ngram=1)("import a\na.f(a)", "import b\nb.f(b)") == pytest.approx(5 / 14, abs=1e-15)


def test_names_after_an_import_statement_on_the_same_line_are_the_programs_own():
    assert LexicalSimilarity()("import math; x = 1", "import math\nfoo = 1") == 1.0


def test_the_order_of_names_counts():
    assert LexicalSimilarity()("print(a - b, a)", "print(b - a, b)") == 1.0
    assert LexicalSimilarity()("print(a - b, a)", "print(a - b, b)") < 1.0


@pytest.mark.parametrize(
    "broken", ["print('a", "x = (1,", '"""open', "  x\n y", "def f(:\n\tpass\n  x", "$ ?? é", "\x00"]
)
def test_code_that_does_not_tokenize_is_compared_all_the_same(broken):
    similarity = LexicalSimilarity()
    assert similarity(broken, broken) == 1.0
    assert 0 <= similarity(broken, LOOP) < 1


def test_unfinished_code_resembles_its_finished_form():
    similarity = LexicalSimilarity()
    assert similarity(LOOP.rstrip()[:-1], LOOP) > 0.8


@pytest.mark.parametrize("empty", ["", "  \n", "# only a comment", "\\\n"])
def test_empty_programs_resemble_nothing(empty):
    assert LexicalSimilarity()(empty, empty) == 0.0
    assert LexicalSimilarity()(empty, LOOP) == 0.0


@given(SOURCES, SOURCES, st.integers(1, 4))
def test_range_and_symmetry_of_any_text(code, other, ngram):
    similarity = LexicalSimilarity(ngram=ngram)
    assert 0 <= similarity(code, other) <= 1
    assert similarity(code, other) == similarity(other, code)
    assert similarity(code, code) in (0.0, 1.0)


def test_a_group_of_long_programs_is_fast_once_seen():
    similarity = LexicalSimilarity()
    programs = [LOOP.replace("10", str(10 + i)) * 25 for i in range(16)]  # about 2 KB each
    pairs = [(a, b) for a in programs for b in programs]
    first = [similarity(a, b) for a, b in pairs]
    start = time.perf_counter()
    assert [similarity(a, b) for a, b in pairs] == first
    assert time.perf_counter() - start < 0.1


def test_ngram_out_of_range():
    with pytest.raises(ValueError, match="ngram=0: expected >= 1"):
        LexicalSimilarity(ngram=0)


class StubEncoder:
    """Embeds "<angle>" as a vector of length 2 at that angle, in degrees."""

    def __init__(self, path, device):
        self.calls = []
        assert (path, device) == ("stub", "cpu")

    def encode(self, text, show_progress_bar):
        STUB_CALLS.append(text)
        angle = math.radians(float(text))
        return 2 * np.array([math.cos(angle), math.sin(angle)], dtype=np.float32) if float(text) >= 0 else np.zeros(2)


STUB_CALLS = []


@pytest.fixture
def stub(monkeypatch):
    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = StubEncoder  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    _forget_embeddings()
    yield EmbeddingSimilarity(path="stub")
    _forget_embeddings()


def _forget_embeddings():
    STUB_CALLS.clear()
    embedding._encoder.cache_clear()
    embedding._unit_vector.cache_clear()


@pytest.mark.parametrize(("other", "cosine"), [("0.0", 1.0), ("60", 0.5), ("90", 0.0), ("120", 0.0), ("180", 0.0)])
def test_embedding_cosine_is_clamped(stub, other, cosine):
    assert stub("0", other) == pytest.approx(cosine, abs=1e-7)
    assert stub(other, "0") == stub("0", other)
    assert 0 <= stub("0", other) <= 1


def test_each_program_is_embedded_once(stub):
    for _ in range(3):
        stub("10", "20")
        stub("20", "30")
    assert sorted(STUB_CALLS) == ["10", "20", "30"]


def test_equal_and_blank_programs_need_no_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert EmbeddingSimilarity()("x = 1", "x = 1") == 1.0
    assert EmbeddingSimilarity()("", "") == 0.0
    assert EmbeddingSimilarity()("x = 1", "  \n") == 0.0


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    _forget_embeddings()
    with pytest.raises(ImportError, match=r"pip install sentence-transformers"):
        EmbeddingSimilarity()("x = 1", "x = 2")


def test_an_embedding_without_direction_is_an_error(stub):
    with pytest.raises(ValueError, match=r"norm 0\.0"):
        stub("-1", "2")


def test_empty_path():
    with pytest.raises(ValueError, match="path=' '"):
        EmbeddingSimilarity(path=" ")


@pytest.mark.slow
def test_real_embeddings_of_a_random_model(tmp_path):
    """The real package over a BERT of random weights built here, without a download; it pools by the mean."""
    pytest.importorskip("sentence_transformers")
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "print", "(", ")", "1", "2"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    _forget_embeddings()
    similarity = EmbeddingSimilarity(path=str(tmp_path / "bert"))
    assert 0 < similarity("print(1)", "print(2)") < 1
    assert similarity("print(1)", "print(2)") == similarity("print(2)", "print(1)")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python's own tokenizer takes f-strings apart from 3.12 on")
@pytest.mark.parametrize("path", SOURCES_OF_THE_PACKAGE, ids=lambda path: path.name)
def test_real_programs_are_compared_as_by_definition(path: Path):
    code, other = (one.read_text(encoding="utf-8") for one in (path, PACKAGE / "trainer.py"))
    for ngram in (1, 3):
        assert LexicalSimilarity(ngram=ngram)(code, other) == plain_similarity(code, other, ngram)


@given(st.randoms(use_true_random=False), st.integers(1, 400), st.integers(1, 5))
def test_random_programs_are_compared_as_by_definition(random: Random, num_characters: int, ngram: int):
    code, other = (program(random, num_characters) for _ in range(2))
    assert LexicalSimilarity(ngram=ngram)(code, other) == plain_similarity(code, other, ngram)


@pytest.mark.parametrize(
    "code",
    [
        "import a.b\nb = a",
        "from .a import b as c\na + b + c",
        "from ... import a\nfrom ...b import c\na + b + c",
        "from m import (  # all of them\n    a,\n    b as c,\n)\nprint(a, b, c, m)",
        "import a, \\\n    b\na + b",
        "a = 1; import a; print(a, b)",
        "def f():\n    import a\n    return a\nprint(f)",
        "def f(x):\n    yield from x\n    raise x from f",
        "important = imported = from_ = 1\nx.important\nx.import_()",
        "a . b\n(a\n .c . d)",
        "x = [1, 2][0].real + 1..imag + 'import a'.b + f'{a}'.c",
    ],
)
def test_imports_and_attributes_are_compared_as_by_definition(code: str):
    for ngram in (1, 2, 3):
        for other in ("import a\nb = a.c", "print(a, b, c)", code):
            assert LexicalSimilarity(ngram=ngram)(code, other) == plain_similarity(code, other, ngram)


def test_hostile_text_takes_no_time():
    texts = [
        piece * 4000 for piece in ("from ", "import(", "\"\"\"'''", "\\", ". ", "1e", "#", '"\\', " \n", "from a ")
    ]
    started = time.perf_counter()
    for text in texts:
        LexicalSimilarity()(text, LOOP)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("code", "tokens"),
    [
        ("x = 'a' # b\ny = f\"c#\"", ["x", "=", "'a'", "y", "=", 'f"c#"']),
        ("0x1F 0o17 1_000.5e-3j .5 1.", ["0x1F", "0o17", "1_000.5e-3j", ".5", "1."]),
        ("a//=b**c->d:=e...", ["a", "//=", "b", "**", "c", "->", "d", ":=", "e", "..."]),
        ('"""two\nlines""" + r\'\\\'\'', ['"""two\nlines"""', "+", r"r'\''"]),
        ("print('unclosed", ["print", "(", "'", "unclosed"]),
        ("1 +\\\n 2 # no end", ["1", "+", "2"]),
        ("a.b . c.\n d", ["a", ".b", ". c", ".\n d"]),
        ("import a, b; from c import (d,\n e)\nf", ["import a, b", ";", "from c import (d,\n e)", "f"]),
        ("", []),
    ],
)
def test_tokens_of_programs_and_of_text_that_is_none(code: str, tokens: list[str]):
    assert [token for token in lexical.tokens_of(code) if token] == tokens


STRUCTURE = StructureSimilarity()


def test_names_numbers_and_layout_have_no_structure():
    assert STRUCTURE("total = a * 3\nprint(total)", "x  =  b * 71\n\nprint( x )  # shown") == pytest.approx(1)


def test_structure_by_hand():
    # x = a + b: Module(Assign), Assign(Name BinOp), BinOp(Name Add Name); x = a * b differs in the last of the three.
    assert STRUCTURE("x = a + b", "x = a * b") == pytest.approx(2 / 3)
    # print(a): Module(Expr), Expr(Call), Call(Name Name): nothing in common with an assignment
    assert STRUCTURE("x = a + b", "print(a)") == 0


def test_structure_counts_how_often():
    # Module(Assign Assign) and Assign(Name Name) twice, against Module(Assign) and the latter once: 2 / sqrt(5 * 2)
    assert STRUCTURE("x = a\ny = b", "x = a") == pytest.approx(2 / math.sqrt(10))


@pytest.mark.parametrize("code", ["print(", "1 +", "def f(:", "(" * 5000, "x = " + "-" * 100000 + "1", "\0"])
def test_what_is_no_program_resembles_itself_only(code: str):
    assert STRUCTURE(code, code) == 1
    assert STRUCTURE(code, "print(1)") == STRUCTURE("print(1)", code) == 0


@pytest.mark.parametrize("empty", ["", " \n", "# only a comment"])
def test_programs_without_statements_have_no_structure(empty: str):
    assert STRUCTURE(empty, "x = 1") == 0
