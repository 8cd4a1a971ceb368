"""Whatever stands in a record: a problem that keeps its promises, or one line that names the record."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.evaluation.benchmarks import find, seeds

from published_files import arb_choice, arb_free, logiqa_question, math_problem, reclor_question

RECORDS = {
    "test.json": ("math", math_problem()),
    "train.json": ("reclor", reclor_question()),
    "dev.txt": ("logiqa2", logiqa_question()),
    "law.json": ("arb", arb_choice()),
    "math_numerical.json": ("arb", arb_free()),
}
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 6) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_record_with_any_values(tmp_path, name, data):
    benchmark, record = find(RECORDS[name][0]), RECORDS[name][1]
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(record)), _VALUES, min_size=1, max_size=2))
    path = tmp_path / name
    path.write_text(json.dumps([record, record | changed]), encoding="utf-8", errors="surrogatepass")
    try:
        loaded = benchmark.load(path)
    except UserError as error:
        assert str(error).startswith(f"{path}[1]: ") and "\n" not in str(error)
        assert len(benchmark.load(path, skip_bad=True).items) == 1
        return
    for item in loaded.items:
        assert item.question.strip() and all(option.strip() for option in item.options)
        assert item.answer is None or item.answer.strip()
        assert item.answer_index is None or 0 <= item.answer_index < len(item.options)
    written = list(seeds(benchmark, loaded.items))
    assert len({seed.id for seed in written}) == len(written) == len(loaded.items)
    for seed in written:
        json.dumps(vars(seed), ensure_ascii=False).encode()
