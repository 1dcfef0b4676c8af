from common.console import draw_table, measure_text


def test_tables_stand_in_columns_whatever_the_script():
    lines = draw_table([["run", "f1"], ["模型甲", "0.5"], ["e\u0301t", "10.25"]])
    assert lines == ["run        f1", "模型甲    0.5", "e\u0301t      10.25"]
    assert {measure_text(line) for line in lines} == {13}
    assert draw_table([["a", "bb", "c"], ["x", "y", "zz"]], texts=2) == ["a  bb   c", "x  y   zz"]
