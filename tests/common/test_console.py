from common.console import draw_table, measure_text, say
from common.errors import UserError


def test_tables_stand_in_columns_whatever_the_script():
    lines = draw_table([["run", "f1"], ["模型甲", "0.5"], ["e\u0301t", "10.25"]])
    assert lines == ["run        f1", "模型甲    0.5", "e\u0301t      10.25"]
    assert {measure_text(line) for line in lines} == {13}
    assert draw_table([["a", "bb", "c"], ["x", "y", "zz"]], texts=2) == ["a  bb   c", "x  y   zz"]


def test_data_moves_no_cursor():
    """What a label or a path holds is shown and not obeyed, in what is said and in what is refused."""
    assert str(UserError("label a\x1b[2K\r is unknown\nlabel b\x85")) == ("label a\\x1b[2K\\r is unknown\nlabel b\\x85")


def test_what_is_said_is_escaped_line_by_line(capsys):
    say("labels  a\x1b[2K, b\u2028\nrows  2")
    assert capsys.readouterr().out == "labels  a\\x1b[2K, b\\u2028\nrows  2\n"
