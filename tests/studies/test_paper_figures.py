"""The paper's figures are transcribed whole, and exactly those are marked that its other figures contradict."""

from igascale import methods
from igascale.studies.paper import paper

MARKED = {
    ("erm-sft", "9.83", "9.35"),
    ("lora-sft", "10.48", "8.95"),
    ("cot-distill", "10.03", "9.00"),
    ("irm", "8.25", "8.13"),
    ("sand-mask", "7.52", "7.65"),
    ("pareto-gs", "6.71", "6.00"),
    ("iga", "4.22", "4.03"),
}


def test_every_row_of_the_tables_is_there_under_a_method():
    known = paper()
    for number in (1, 2):
        rows = {
            name: row.label for name in methods.available() for row in methods.find(name).rows if row.table == number
        }
        assert known.cells[number].keys() == rows.keys()
        assert {name: known.label(number, name) for name in rows} == rows
    assert known.cells[3].keys() == known.cells[1].keys()
    assert set(known.cells[5]) == {"erm-sft", "pareto-gs", "iga", "ratio"}


def test_contradicted_figures_are_marked_and_no_others():
    found = {
        (method, f"{figure.value:.2f}", figure.contradicted.split()[-1])
        for table in paper().cells.values()
        for method, row in table.items()
        for figure in row.values()
        if figure.contradicted
    }
    assert found == MARKED


def test_cells_that_the_text_repeats():
    """Of section 5 and appendix D, in words, independent of the tables."""
    one, two, three = (paper().cells[number] for number in (1, 2, 3))
    for name, over_pareto, over_erm in (
        ("arb", 6.2, 14.3),
        ("logiqa2", 5.5, 13.6),
        ("reclor", 5.6, 11.8),
        ("math", 5.8, 13.2),
    ):
        iga = one["iga"][f"{name} ood"].value
        assert round(iga - one["pareto-gs"][f"{name} ood"].value, 1) == over_pareto
        assert round(iga - one["erm-sft"][f"{name} ood"].value, 1) == over_erm
    assert (
        two["single-domain"]["average delta"].value == -12.57 and two["random-pairing"]["average delta"].value == -5.80
    )
    assert two["no-masking"]["average delta"].value == -4.13 and two["two-domains"]["average delta"].value == -2.63
    assert two["tau-0.1"]["average delta"].value == -2.87 and two["tau-2.0"]["average delta"].value == -2.37
    assert three["iga"]["accuracy per hour"].value == 16.74 and three["pareto-gs"]["hours per epoch"].value == 5.8
    assert [paper().cells[5]["iga"][layer].value for layer in ("8", "31")] == [2.50, 3.10]
