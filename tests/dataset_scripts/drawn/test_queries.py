"""Short queries about drawn persons, and who fits them."""

import pytest

from dataset_scripts.drawn.persons.queries import short_queries
from dataset_scripts.synthetic_persons import PersonSampler


NOTHING = dict.fromkeys(("upper", "lower", "shoes", "hat", "neck", "bag"), "none")
COAT = {"upper": "coat", "upper_color": "red"}
BOOTS = {"shoes": "boots", "shoes_color": "orange"}
BAG = {"bag": "backpack", "bag_color": "black"}


def test_a_query_names_things_of_a_person_and_everybody_who_has_them_fits():
    persons = [NOTHING | COAT, NOTHING | COAT | BOOTS, NOTHING | BAG, NOTHING | COAT | BAG | BOOTS]
    one = {query.text: query.relevant for query in short_queries(persons, items=1, count=100)}
    assert one == {
        "a person wearing a red coat": (0, 1, 3),
        "a person wearing orange boots": (1, 3),
        "a person carrying a black backpack": (2, 3),
    }
    two = {query.text: query.relevant for query in short_queries(persons, items=2, count=100)}
    assert two["a person wearing a red coat and orange boots"] == (1, 3)
    assert two["a person wearing a red coat and carrying a black backpack"] == (3,)
    (three,) = {query.text for query in short_queries(persons, items=3, count=20)}
    assert three == "a person wearing a red coat and orange boots and carrying a black backpack"
    with pytest.raises(ValueError, match="nobody of 4 persons has 4 things"):
        short_queries(persons, items=4)


def test_the_same_seed_gives_the_same_queries_and_each_fits_somebody():
    sampler = PersonSampler(0, "test")
    persons = [sampler.person(index).attributes() for index in range(200)]
    queries = short_queries(persons, items=2, seed=3)
    assert queries == short_queries(persons, items=2, seed=3) != short_queries(persons, items=2, seed=4)
    assert len(queries) == 300 and all(query.relevant for query in queries)
    assert not any("none" in query.text for query in queries)
