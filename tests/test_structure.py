"""The rules of the house: floors, names, docstrings and sizes."""

from tests.helpers import structure


def test_nothing_imports_upwards_or_in_circles():
    assert structure.imports_upwards() == []
    assert structure.circles() == []


def test_a_public_class_name_means_one_thing():
    assert structure.repeated_classes() == {}


def test_a_docstring_begins_with_what_it_describes():
    assert structure.obscure_docstrings() == []


def test_files_and_functions_can_be_read_whole():
    assert structure.too_large() == []
