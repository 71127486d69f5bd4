"""What the state of an entity is: annotated fields, a dataclass, a pydantic model; and how a class may change meanwhile."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar

import pydantic
import pytest

from durable import App, EntityContext, EntityId, PayloadError, Worker
from durable.entities.states import StateForm
from durable.errors import InvalidInputError, LimitExceededError
from durable.payloads import decode, encode

SOME_ID = uuid.UUID(int=7)


class Everything:
    LIMIT: ClassVar[int] = 5
    constant = "not annotated, so of the class"
    count: int = 0
    ratio: float = 0.5
    when: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    owner: uuid.UUID | None = None
    words: list[str] = []
    by_name: dict[str, set[int]] = {}
    anything: Any = None
    _hidden: int = 1

    @property
    def double(self) -> int:
        return self.count * 2

    @functools.cached_property
    def costly(self) -> int:
        return self.count * 3


@dataclasses.dataclass
class Point:
    x: float = 0.0
    tags: list[str] = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    count: int = pydantic.Field(0, ge=0)
    inner: list[Point] = []
    _note: str = pydantic.PrivateAttr("")


def form_of(cls: type) -> StateForm:
    return StateForm(cls, cls.__name__)


def round_trip(made: Any) -> Any:
    form = form_of(type(made))
    plain = form.encode(made)
    assert plain is not None
    return form.decode(plain)


def test_annotated_fields_are_the_state() -> None:
    made = form_of(Everything).fresh()
    made.count, made.owner, made._hidden = 3, SOME_ID, 9
    made.words.append("a")
    made.by_name["b"] = {1, 2}
    made.anything = {"c": [1, 2.5, None]}
    again = round_trip(made)
    assert type(again) is Everything
    assert vars(again) == vars(made)
    assert (again.double, again.costly, again.LIMIT, again.constant) == (6, 9, 5, Everything.constant)


def test_each_object_has_defaults_of_its_own() -> None:
    form = form_of(Everything)
    one, other = form.fresh(), form.fresh()
    one.words.append("x")
    one.by_name["x"] = {1}
    assert (other.words, other.by_name, Everything.words) == ([], {}, [])


def test_a_dataclass_is_its_fields() -> None:
    made = Point(1.5, ["a"])
    assert round_trip(made) == made
    assert form_of(Point).fresh() == Point()


def test_a_model_is_its_fields() -> None:
    made = Model(count=2, inner=[Point(1.0)])
    assert round_trip(made) == made
    assert form_of(Model).fresh() == Model()
    made.count = -1
    with pytest.raises(InvalidInputError, match="state of entity 'Model'"):
        form_of(Model).encode(made)


def test_fields_come_from_base_classes_too() -> None:
    class Base:
        a: int = 1
        b: int = 2

    class Derived(Base):
        b: int = 3
        c: str = "c"

    made = form_of(Derived).fresh()
    assert vars(made) == {"a": 1, "b": 3, "c": "c"}
    assert vars(round_trip(made)) == vars(made)


def test_annotations_are_found_where_the_class_is_written() -> None:
    class Inner(pydantic.BaseModel):
        value: int = 1

    class Outer:
        inner: Inner = Inner()
        nowhere: Missing = None  # type: ignore[name-defined]  # noqa: F821 (such a name may be there for checkers only)

    made = form_of(Outer).fresh()
    made.inner.value = 5
    again = round_trip(made)
    assert type(again.inner) is Inner
    assert again.inner.value == 5


def test_a_class_may_set_its_fields_itself() -> None:
    class Own:
        items: list[int]

        def __init__(self) -> None:
            self.items = [1]

    made = form_of(Own).fresh()
    made.items.append(2)
    assert round_trip(made).items == [1, 2]

    class Forgetful(Own):
        other: int

    with pytest.raises(TypeError, match="its field 'other' has no default, and __init__ does not set it"):
        form_of(Forgetful).fresh()


def test_a_class_without_fields_has_no_state() -> None:
    class Nothing:
        pass

    class NoFields(pydantic.BaseModel):
        pass

    for cls in (Nothing, NoFields):
        assert form_of(cls).encode(form_of(cls).fresh()) is None


# ---- what is refused


def test_a_field_without_a_default_is_refused_at_once() -> None:
    class Bare:
        count: int

    @dataclasses.dataclass
    class BareRecord:
        count: int

    class BareModel(pydantic.BaseModel):
        count: int

    class Needy:
        count: int = 0

        def __init__(self, count: int) -> None:
            self.count = count

    with pytest.raises(TypeError, match=r"entity '.*Bare' .*: its field 'count' has no default"):
        form_of(Bare)
    for cls in (BareRecord, BareModel, Needy):
        with pytest.raises(TypeError, match="cannot be made without arguments"):
            form_of(cls)


def test_an_attribute_that_would_not_be_kept_is_refused() -> None:
    for made in (form_of(Everything).fresh(), Point()):
        made.surplus = 1
        with pytest.raises(TypeError, match="attribute 'surplus' is no field of the class"):
            form_of(type(made)).encode(made)


def test_a_value_that_does_not_fit_or_is_too_large_is_refused() -> None:
    made = form_of(Everything).fresh()
    made.count = "7"
    with pytest.raises(InvalidInputError, match=r"state of entity 'Everything'.*count"):
        form_of(Everything).encode(made)
    made.count, made.anything = 7, object()
    with pytest.raises(TypeError, match="anything"):
        form_of(Everything).encode(made)
    made.anything = "x" * 3_000_000
    with pytest.raises(LimitExceededError):
        form_of(Everything).encode(made)


# ---- classes that change


def test_a_new_field_gets_its_default_and_a_former_one_is_forgotten() -> None:
    plain = encode({"count": 5, "former": "x"})
    again = form_of(Everything).decode(plain)
    assert (again.count, again.ratio) == (5, 0.5)
    assert not hasattr(again, "former")
    assert form_of(Point).decode(encode({"x": 2.5})) == Point(2.5, [])
    assert form_of(Model).decode(encode({"count": 2})) == Model(count=2)


def test_a_stored_value_that_no_longer_fits_is_told() -> None:
    for cls, plain in ((Everything, {"count": "five"}), (Point, {"x": "far"}), (Model, {"count": -1})):
        with pytest.raises(PayloadError, match=f"state of entity '{cls.__name__}'"):
            form_of(cls).decode(encode(plain))


def test_what_is_stored_is_plain_data_by_field() -> None:
    assert decode(form_of(Point).encode(Point(1.5, ["a"])) or b"") == {"x": 1.5, "tags": ["a"]}
    plain = form_of(Everything).encode(form_of(Everything).fresh())
    assert decode(plain or b"")["count"] == 0


# ---- all three at work

app = App()


@app.entity
class PlainBox:
    items: list[str] = []

    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    def empty(self, ctx: EntityContext) -> None:
        ctx.delete_state()


@app.entity
@dataclasses.dataclass
class RecordBox:
    items: list[str] = dataclasses.field(default_factory=list)

    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@dataclasses.dataclass
@app.entity
class LaterRecordBox:
    items: list[str] = dataclasses.field(default_factory=list)

    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@app.entity
class ModelBox(pydantic.BaseModel):
    items: list[str] = []
    _opened: bool = pydantic.PrivateAttr(False)

    def put(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)


@app.orchestrator
async def fill(ctx: Any, name: str) -> list[int]:
    return [await ctx.call_entity(EntityId(name, "box"), "put", item) for item in "abc"]


@pytest.mark.parametrize("cls", [PlainBox, RecordBox, LaterRecordBox, ModelBox])
async def test_every_form_of_class_works(store_url: str, cls: type[Any]) -> None:
    async with Worker(app, store_url) as worker:
        assert await worker.client.run(fill, cls.__name__, timeout=30) == [1, 2, 3]
        found = await worker.client.get_entity(EntityId(cls, "box"))
        assert found is not None
        assert type(found.state) is cls
        assert found.state.items == ["a", "b", "c"]
        assert cls().items == []
