"""The registry of entities: names, operations, ids, and what is refused when a class is decorated."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import pydantic
import pytest

from durable import (
    App,
    DuplicateNameError,
    EntityContext,
    EntityId,
    InvalidInputError,
    OrchestrationContext,
    UnknownNameError,
)
from durable.app import ServedName
from durable.entities.definitions import definition_of, entities_of
from durable.entities.ids import entity_id_of
from durable.payloads import decode, encode


class Counter:
    value: int = 0

    def add(self, amount: int) -> int:
        return amount


def test_a_class_is_returned_as_it_is_and_known_by_its_name() -> None:
    app = App()
    assert app.entity(Counter) is Counter
    assert app.entity(name="other")(type("Plain", (), {})).__name__ == "Plain"
    assert Counter().add(5) == 5, "a unit test calls it as is"
    assert [definition.name for definition in entities_of(app)] == ["Counter", "other"]


def test_a_worker_announces_them() -> None:
    app = App()
    app.entity(Counter)
    assert app.served() == [ServedName("entity", "Counter", "0")]


def test_two_classes_under_one_name_are_refused() -> None:
    app, other = App(), App()
    app.entity(Counter)
    app.entity(Counter)  # the same one again is harmless
    with pytest.raises(DuplicateNameError, match="two entities under one name"):
        app.entity(name="Counter")(type("Another", (), {}))
    other.entity(name="Counter")(type("Another", (), {}))
    with pytest.raises(DuplicateNameError):
        app.include(other)


def test_an_included_apps_entities_are_there() -> None:
    app, other = App(), App()
    other.entity(Counter)
    app.include(other)
    assert entities_of(app).find("Counter").cls is Counter
    with pytest.raises(
        UnknownNameError, match="no entity 'Count' is registered with this app. Did you mean 'Counter'?"
    ):
        entities_of(app).find("Count")


def test_operations_are_the_public_methods() -> None:
    class Base:
        def inherited(self) -> None: ...
        def hidden(self) -> None: ...

    class Whole(Base):
        value: int = 0
        hidden = None  # type: ignore[assignment]  # hides the operation

        def own(self, ctx: EntityContext, text: str) -> None: ...
        async def later(self) -> None: ...
        def _private(self, one: int, two: int) -> None: ...
        @staticmethod
        def static() -> None: ...
        @classmethod
        def of_class(cls) -> None: ...
        @property
        def computed(self) -> int:
            return 1

    app = App()
    app.entity(Whole)
    assert set(entities_of(app).find("Whole").operations) == {"inherited", "own", "later"}


def test_a_models_own_methods_are_no_operations() -> None:
    app = App()

    @app.entity
    class Model(pydantic.BaseModel):
        value: int = 0
        _note: str = pydantic.PrivateAttr("")

        def add(self, amount: int) -> None: ...
        def model_post_init(self, context: Any, /) -> None: ...

    assert set(entities_of(app).find("Model").operations) == {"add"}


@pytest.mark.parametrize(
    "shape", ["two inputs", "star", "keyword", "generator", "context second", "orchestration context"]
)
def test_a_method_that_can_be_no_operation_is_refused_when_the_class_is_decorated(shape: str) -> None:
    class Wrong:
        if shape == "two inputs":

            def go(self, one: int, two: int) -> None: ...
        elif shape == "star":

            def go(self, *all: int) -> None: ...
        elif shape == "keyword":

            def go(self, *, one: int) -> None: ...
        elif shape == "generator":

            def go(self) -> Any:
                yield 1
        elif shape == "context second":

            def go(self, one: int, ctx: EntityContext) -> None: ...
        else:

            def go(self, ctx: OrchestrationContext) -> None: ...

    with pytest.raises(TypeError, match=r"operation '.*Wrong.go' .*An operation is f\(self\)"):
        App().entity(Wrong)


@pytest.mark.parametrize("thing", [len, "Counter", 5, Counter()])
def test_only_a_class_can_be_an_entity(thing: Any) -> None:
    with pytest.raises(TypeError, match="an entity is a class"):
        App().entity(thing)


def test_an_abstract_class_is_refused() -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        def go(self) -> None: ...

    with pytest.raises(TypeError, match="is abstract"):
        App().entity(Abstract)


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 513])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        App().entity(name=name)


# ---- ids


def test_an_id_by_class_and_one_by_name_are_the_same() -> None:
    App().entity(Counter)
    by_class, by_name = EntityId(Counter, "a"), EntityId("Counter", "a")
    assert by_class == by_name
    assert hash(by_class) == hash(by_name)
    assert (by_class.name, by_class.key, str(by_class)) == ("Counter", "a", "a@Counter")
    assert EntityId("A", "z") < EntityId("B", "a") < EntityId("B", "b")


def test_a_class_that_is_no_entity_has_no_ids() -> None:
    class Plain:
        pass

    class Inherits(Counter):
        pass

    App().entity(Counter)
    for cls in (Plain, Inherits):
        with pytest.raises(UnknownNameError, match=r"is no entity: decorate it with @app\.entity"):
            EntityId(cls, "a")


def test_a_class_of_two_names_is_meant_by_name() -> None:
    class Twice:
        pass

    App().entity(name="one")(Twice)
    assert EntityId(Twice, "a").name == "one"
    App().entity(name="two")(Twice)
    with pytest.raises(UnknownNameError, match="several names, one, two"):
        EntityId(Twice, "a")


@pytest.mark.parametrize("key", ["", " ", "a\0b", "x" * 513, "\udc80", 5])
def test_a_bad_key_is_refused(key: Any) -> None:
    with pytest.raises(InvalidInputError, match="entity key"):
        EntityId("Counter", key)


@pytest.mark.parametrize(("name", "key"), [("a@b", "k"), ("a", "@b@k"), ("a%40b", "k"), ("%", "%25"), ("é", "k/..")])
def test_every_id_is_an_instance_of_its_own(name: str, key: str) -> None:
    entity = EntityId(name, key)
    assert entity_id_of(entity.instance_key) == entity
    assert entity.instance_key.kind == "e"
    assert entity.instance_key.id.startswith(key)
    others = [EntityId("a", "b@k"), EntityId("b", "a@k"), EntityId("a@b", "k@"), EntityId("a%b", "k")]
    assert entity.instance_key not in [other.instance_key for other in others]


def test_an_id_is_plain_data_and_may_be_sent() -> None:
    App().entity(Counter)

    @dataclasses.dataclass
    class Order:
        of: EntityId[Any]

    assert decode(encode(EntityId(Counter, "a"))) == {"name": "Counter", "key": "a"}
    assert decode(encode(EntityId(Counter, "a"), EntityId), EntityId) == EntityId("Counter", "a")
    assert decode(encode([EntityId(Counter, "a")]), list[EntityId[Any]]) == [EntityId("Counter", "a")]
    assert decode(encode(Order(EntityId(Counter, "a")), Order), Order) == Order(EntityId("Counter", "a"))


def test_what_is_noted_on_a_class_is_found_without_an_app() -> None:
    App().entity(Counter)
    assert definition_of(Counter).name == "Counter"
