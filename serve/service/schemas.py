"""What goes over the wire: requests that are checked, and answers that are described."""

from typing import Annotated, Any, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json, StringConstraints, model_validator
from typing_extensions import Self

from hat.data.labels import MAX_LABEL_LENGTH, parse_label
from hat.errors import DataError, UsageError

from ..gallery.record_checks import check_attribute_name, checked_attributes
from ..gallery.records import AttributeValue, Filter, RecordLabels
from .api_error import ApiError
from .gallery_registry import GALLERY_NAME

_LARGEST = 2**63 - 1
_YEAR_9999 = 253_402_300_800.0  # seconds from 1970 to the year 10000: what lies beyond is not a time


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):  # which pydantic takes for 1 or 0
        raise ValueError("expected a number, not true or false")
    return value


def _parse_identity(value: Any) -> Any:
    """Read a text as file names, tables and the command line are read: ``"007"`` is the number 7, anything else a name."""
    if isinstance(value, list):
        raise ValueError("expected one value")
    _refuse_bool(value)
    try:
        return parse_label(value) if isinstance(value, str) else value
    except DataError as error:
        raise ValueError(str(error)) from None


def _check_printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable text is expected")
    return text


def _check_attributes(attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    """Hold attributes to what galleries take, and their texts, which may come from anybody, to what can be shown."""
    try:
        for name, value in attributes.items():
            check_attribute_name(name, "a record")
            if isinstance(value, str):
                _check_printable(value)
        return checked_attributes(attributes, "a record")
    except UsageError as error:
        raise ValueError(str(error)) from None


def _wrap(value: Any) -> Any:
    """Return a list where a form has a single value of a field that may be there many times."""
    return [value] if isinstance(value, str) else value


GalleryName = Annotated[str, StringConstraints(pattern=f"^{GALLERY_NAME}$")]
Camera = Annotated[int, Field(ge=0, le=_LARGEST), BeforeValidator(_refuse_bool)]
RecordId = Annotated[int, Field(ge=1, le=_LARGEST)]
Side = Annotated[int, Field(ge=-(2**20), le=2**20)]
Box = tuple[Side, Side, Side, Side]
TimeS = Annotated[float, Field(ge=-_YEAR_9999, le=_YEAR_9999, allow_inf_nan=False)]
Similarity = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
PrintableText = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(_check_printable)]
PersonName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL_LENGTH)]
Identity = Annotated[Annotated[int, Field(ge=0, le=_LARGEST)] | PersonName, BeforeValidator(_parse_identity)]
Attributes = Annotated[dict[str, AttributeValue], AfterValidator(_check_attributes)]
# In a form everything is text: there, an object of attributes is written as JSON.
FormAttributes = Annotated[Attributes | Json[Attributes], Field(union_mode="left_to_right")]
Many = BeforeValidator(_wrap)


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchForm(_Form):
    """What is searched, where, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gallery": "people", "record_ids": [7], "top": 5}]})

    gallery: GalleryName = Field(description="Name of the gallery.", examples=["people"])
    record_ids: Annotated[list[RecordId], Many] = Field(default=[], max_length=64, description="Search by enrolled records.")
    top: int = Field(default=10, ge=1, le=1_000_000, description="Most matches for each query; the service has a limit.")
    one_person: bool = Field(default=False, description="All images and records show one person: one query.")
    rerank: bool = Field(default=False, description="Order by k-reciprocal re-ranked distance.")
    rerank_pool: int = Field(default=200, ge=1, le=2000, description="Nearest records that are re-ranked.")
    center_cameras: bool = Field(default=False, description="Subtract the mean embedding of each camera before ranking.")
    query_camid: Camera | None = Field(default=None, description="With center_cameras: the images' camera, where it is known.")
    min_similarity: Similarity | None = Field(default=None, description="Leave out matches below this cosine similarity.")
    camids: Annotated[list[Camera] | None, Many] = Field(default=None, max_length=1000, description="Only these cameras.")
    exclude_camids: Annotated[list[Camera], Many] = Field(default=[], max_length=1000, description="None of these cameras.")
    pids: Annotated[list[Identity] | None, Many] = Field(default=None, max_length=1000, description="Only these identities.")
    since_s: TimeS | None = Field(default=None, description="Seen at this time or later, seconds since 1970.")
    until_s: TimeS | None = Field(default=None, description="Seen before this time.")
    attributes: FormAttributes = Field(default={}, description="Only records with these values.")

    @model_validator(mode="after")
    def _check_query_camid(self) -> Self:
        if self.query_camid is not None and not self.center_cameras:
            raise ValueError("query_camid changes nothing without center_cameras: give both, or exclude_camids instead")
        return self

    def where(self) -> Filter:
        """Return the filter."""
        conditions = {"camids", "exclude_camids", "pids", "since_s", "until_s", "attributes"}
        return Filter.of(**self.model_dump(include=conditions))


class RecordFilter(_Form):
    """Which records are listed."""

    pid: Identity | None = Field(default=None, description="Only this identity.")
    camid: Camera | None = Field(default=None, description="Only this camera.")
    since_s: TimeS | None = Field(default=None, description="Seen at this time or later, seconds since 1970.")
    until_s: TimeS | None = Field(default=None, description="Seen before this time.")
    after_id: int = Field(default=0, ge=0, le=_LARGEST, description="Only larger ids: `next_after_id` of the last page.")
    limit: int = Field(default=100, ge=1, le=1000, description="Most records on a page.")

    def where(self) -> Filter:
        """Return the filter."""
        pids = None if self.pid is None else [self.pid]
        camids = None if self.camid is None else [self.camid]
        return Filter.of(pids=pids, camids=camids, since_s=self.since_s, until_s=self.until_s)


class OldRecords(_Form):
    """Which records are removed."""

    enrolled_before_s: TimeS = Field(description="Enrolled before this time, seconds since 1970 (UTC).")


class _Labels(_Form):
    pid: Identity | None = Field(default=None, description="Identity, a number or a name.", examples=["alice"])
    camid: Camera | None = Field(default=None, description="Camera.")
    time_s: TimeS | None = Field(default=None, description="When the person was seen, seconds since 1970.")
    attributes: Attributes = Field(default={}, description="Anything else, by name.")


class ItemLabels(_Labels):
    """What is known of one image that is enrolled."""

    source: PrintableText | None = Field(default=None, description="How it is called for people; the file's name where unset.")
    box: Box | None = Field(default=None, description="The person in a larger picture: [left, top, right, bottom] in pixels.")


class EnrollForm(_Labels):
    """What is known of images that are enrolled: of all of them alike, or of each."""

    attributes: FormAttributes = Field(default={}, description="Anything else, as a JSON object.")
    records: Json[list[ItemLabels]] | None = Field(default=None, description="Of each image, as a JSON list in their order.")
    update: bool = Field(default=False, description="Give images that are there already the labels that are given now.")

    def labels(self, num_images: int) -> list[ItemLabels]:
        """Return one for each image."""
        if self.records is None:
            labels = self.model_dump(include={"pid", "camid", "time_s", "attributes"})
            return [ItemLabels.model_construct(**labels)] * num_images
        if self.model_fields_set - {"update"} != {"records"}:
            raise ApiError(422, "say what is known either of all images or in `records`, not both")
        if len(self.records) != num_images:
            raise ApiError(422, f"`records` has {len(self.records)} entries for {num_images} images")
        return self.records


class UpdateRecord(_Labels):
    """Labels that a record is to have: what is not given it keeps, attributes too, and null makes a label unknown."""

    def labels(self) -> RecordLabels:
        """Return what was given."""
        return cast(RecordLabels, self.model_dump(exclude_unset=True))


class UpdatePerson(_Form):
    """Who a person is after all; where there are records of that identity, the two become one."""

    pid: Identity | None = Field(description="Identity, a number or a name; null where nobody knows.", examples=["alice"])


class MakeGallery(_Form):
    """A gallery that is to be made."""

    name: GalleryName = Field(description="Its name.", examples=["people"])


class Problem(BaseModel):
    """An answer that is an error."""

    detail: str = Field(description="What is wrong and what to do.")
    request_id: str = Field(description="Number under which the service's log knows the request.")


class Embeddings(BaseModel):
    """Embeddings."""

    embeddings: list[list[float]] = Field(description="Unit vectors, one for each image, in order.", examples=[[[0.6, 0.8]]])
    embed_dim: int = Field(description="Width of an embedding.", examples=[2])
    fingerprint: str = Field(description="The model: embeddings of different fingerprints must not be compared.")


class RecordInfo(BaseModel):
    """A record of a gallery."""

    id: int
    source: str
    pid: int | str | None
    camid: int | None
    time_s: float | None
    attributes: dict[str, AttributeValue]
    enrolled_s: float
    content_hash: str


class MatchInfo(RecordInfo):
    """A record that was found."""

    similarity: float = Field(description="Cosine similarity in [-1, 1], larger is closer.")
    distance: float | None = Field(default=None, description="Re-ranked distance, smaller is closer, where it was asked for.")
    rank_before: int | None = Field(default=None, description="Rank from 1 by similarity alone, where it was asked for.")


class QueryResult(BaseModel):
    """What was found for one query."""

    query: str = Field(description="Name of the image, or the record.", examples=["a.jpg"])
    matches: list[MatchInfo]


class SearchResults(BaseModel):
    """What was found."""

    gallery: str
    results: list[QueryResult]


class ModelInfo(BaseModel):
    """The model of the service."""

    name: str
    precision: str
    embed_dim: int
    image_size: list[int] = Field(description="[height, width] to which images are resized.", examples=[[256, 128]])
    fingerprint: str


class GalleryInfo(BaseModel):
    """How much a gallery holds."""

    name: str
    num_records: int
    num_people: int = Field(description="Known identities.")
    num_cameras: int = Field(description="Known cameras.")
    num_without_pid: int
    first_seen_s: float | None
    last_seen_s: float | None
    read_only: bool
    model: str = Field(description="Name of the model that made its embeddings.")
    fingerprint: str


class GalleryList(BaseModel):
    """The galleries."""

    galleries: list[str]


class RecordPage(BaseModel):
    """Some of a gallery's records, by ascending id."""

    records: list[RecordInfo]
    num_matching: int = Field(description="How many records pass the filter in all.")
    next_after_id: int | None = Field(description="`after_id` of the next page; null on the last one.")


class ImageNote(BaseModel):
    """What is to be said of an image."""

    source: str
    reason: str


class EnrollResult(BaseModel):
    """What came of an enrollment."""

    ids: list[int] = Field(description="Of the images that were added or known already, in order.")
    num_added: int
    num_known: int
    num_updated: int = Field(description="Of these, images whose labels were changed.")
    conflicts: list[ImageNote] = Field(description="Known images that have other labels than those given, and kept them.")
    bad: list[ImageNote] = Field(description="Images that could not be used.")


class NumUpdated(BaseModel):
    """What was changed."""

    num_updated: int


class NumRemoved(BaseModel):
    """What was removed."""

    num_removed: int
