"""Class tables in the forms that tools write."""

import pytest

from preparation.table_files import parse_table, read_table
from utils import UserError

RED, GREEN = 0xFF0000, 0x00FF00


@pytest.mark.parametrize(
    "text",
    [
        "road,255,0,0\ntraffic light 2,0,255,0",
        "name;color\nroad;#ff0000\ntraffic light 2;#00ff00",
        "road\t255\t0\t0\ntraffic light 2\t0\t255\t0",
        "r,g,b,name\n255,0,0,road\n0,255,0,traffic light 2",
        "255 0 0 road\n0 255 0 traffic light 2",
        "# label:color_rgb:parts:actions\nroad:255,0,0::\ntraffic light 2:0,255,0::",
        '"Class Name","RGB"\n"road","255,0,0"\n"traffic light 2","0,255,0"',
        "\ufeffName, R, G, B\r\nroad, 255, 0, 0\r\ntraffic light 2, 0, 255, 0\r\n",
        "#ff0000 road\n#00ff00 traffic light 2",
    ],
)
def test_names_and_colours(text):
    rows = parse_table(text.removeprefix("\ufeff"), "t.csv").rows
    assert [(row.name, row.value, row.colours) for row in rows] == [
        ("road", None, [RED]),
        ("traffic light 2", None, [GREEN]),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "7,road\n12,traffic light 2",
        "Pixel Value, Class\n7, road\n12, traffic light 2",
        "name,id\nroad,7\ntraffic light 2,12",
        "7 road\n12 traffic light 2",
        "7: road\n12: traffic light 2",
        "7. road\n12. traffic light 2",
        "road = 7\ntraffic light 2 = 12",
        "label,name\n7,road\n12,traffic light 2",
        "Class;Label\nroad;7\ntraffic light 2;12",
        "Idx\tRatio\tVal\tStuff\tName\n7\t0.1\t2\t3\troad\n12\t0.1\t2\t3\ttraffic light 2",
    ],
)
def test_names_and_values(text):
    rows = parse_table(text, "t.csv").rows
    assert [(row.name, row.value) for row in rows] == [("road", 7), ("traffic light 2", 12)]


def test_names_alone():
    rows = parse_table("background\nwall, fence\nclass 12\n", "t.txt").rows
    assert [row.name for row in rows] == ["background", "wall, fence", "class 12"]


def test_labelmes_list_and_yolos_yaml(tmp_path):
    rows = parse_table("__ignore__\n_background_\nroad", "labels.txt").rows
    assert [row.name for row in rows] == ["_background_", "road"]
    pytest.importorskip("yaml")
    (tmp_path / "data.yaml").write_text("names: {2: road, '10': wall}")
    rows = read_table(tmp_path / "data.yaml").rows
    assert [(row.name, row.value) for row in rows] == [("road", 2), ("wall", 10)]
    (tmp_path / "data.yaml").write_text("[")
    with pytest.raises(UserError, match="no `names`"):
        read_table(tmp_path / "data.yaml")


def test_a_class_may_have_two_colours_and_rows_that_are_no_class_are_known():
    rows = parse_table("car,255,0,0\ncar,0,255,0\nOut of ROI,0,0,0", "t.csv").rows
    assert rows[0].colours == [RED, GREEN] and [row.is_unlabelled for row in rows] == [False, True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,r,g,b\nroad,300,0,0", "row 2: r is 300; the highest is 255"),
        ("name,r,g,b\nroad,x,0,0", "row 2: r is 'x', which is no whole number"),
        ("name,color\nroad,#ff00", "row 2: '#ff00' is no colour"),
        ("name,r,g\nroad,1,2", "row 2: a colour has the columns r, g and b"),
        ("value,name\n1,road\n1,wall", "row 3: road has the value 1, too"),
        ("value,name\n1,road\n70000,wall", "row 3: the value is 70000"),
        ("value,name\n1,", "row 2: '' is no plain and short name"),
        ("", "is empty"),
        ("road\nwall\nroad", "row 3: road is there twice"),
        ("id,name,train_id\n1,road,0", "which column is the value, id or train_id?"),
        ("code,name\n1,road", "is the column 'code' the value in labels?"),
        ("a,b\nc,d", "cannot be told apart; give them a header"),
    ],
)
def test_what_is_wrong_is_told_by_row_and_column(text, told):
    with pytest.raises(UserError) as error:
        parse_table(text, "t.csv")
    assert "t.csv" in str(error.value) and told in str(error.value)
