"""Schemas of requests and responses."""

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
    """Search request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"gallery": "people", "record_ids": [7], "top": 5}]})

    gallery: GalleryName = Field(description="Name of the gallery.", examples=["people"])
    record_ids: Annotated[list[RecordId], Many] = Field(default=[], max_length=64, description="Enrolled records to search by.")
    top: int = Field(default=10, ge=1, le=1_000_000, description="Maximum matches of each query; the service has a limit.")
    one_person: bool = Field(default=False, description="Treat all images and records as one query of one person.")
    rerank: bool = Field(default=False, description="Order by k-reciprocal re-ranked distance.")
    rerank_pool: int = Field(default=200, ge=1, le=2000, description="Number of nearest records that are re-ranked.")
    center_cameras: bool = Field(default=False, description="Subtract the mean embedding of each camera before ranking.")
    query_camid: Camera | None = Field(default=None, description="With center_cameras: the camera of the images, if known.")
    min_similarity: Similarity | None = Field(default=None, description="Minimum cosine similarity of a match.")
    camids: Annotated[list[Camera] | None, Many] = Field(default=None, max_length=1000, description="Only these cameras.")
    exclude_camids: Annotated[list[Camera], Many] = Field(default=[], max_length=1000, description="None of these cameras.")
    pids: Annotated[list[Identity] | None, Many] = Field(default=None, max_length=1000, description="Only these identities.")
    since_s: TimeS | None = Field(default=None, description="Seen at this time or later, in seconds since 1970 (UTC).")
    until_s: TimeS | None = Field(default=None, description="Seen before this time, in seconds since 1970 (UTC).")
    attributes: FormAttributes = Field(default={}, description="Only records with these attribute values.")

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
    """Filter and page of a list of records."""

    pid: Identity | None = Field(default=None, description="Only this identity.")
    camid: Camera | None = Field(default=None, description="Only this camera.")
    since_s: TimeS | None = Field(default=None, description="Seen at this time or later, in seconds since 1970 (UTC).")
    until_s: TimeS | None = Field(default=None, description="Seen before this time, in seconds since 1970 (UTC).")
    after_id: int = Field(default=0, ge=0, le=_LARGEST, description="Only larger ids: `next_after_id` of the previous page.")
    limit: int = Field(default=100, ge=1, le=1000, description="Maximum number of records on a page.")

    def where(self) -> Filter:
        """Return the filter."""
        pids = None if self.pid is None else [self.pid]
        camids = None if self.camid is None else [self.camid]
        return Filter.of(pids=pids, camids=camids, since_s=self.since_s, until_s=self.until_s)


class OldRecords(_Form):
    """Records to remove by their date of enrollment."""

    enrolled_before_s: TimeS = Field(description="Remove records enrolled before this time, in seconds since 1970 (UTC).")


class _Labels(_Form):
    pid: Identity | None = Field(default=None, description="Identity, a number or a name.", examples=["alice"])
    camid: Camera | None = Field(default=None, description="Camera.")
    time_s: TimeS | None = Field(default=None, description="Time at which the person was seen, in seconds since 1970 (UTC).")
    attributes: Attributes = Field(default={}, description="Further labels, by name.")


class ItemLabels(_Labels):
    """Labels of one enrolled image."""

    source: PrintableText | None = Field(default=None, description="Displayed name of the image; by default the file name.")
    box: Box | None = Field(default=None, description="Box of the person in the image: [left, top, right, bottom] in pixels.")


class EnrollForm(_Labels):
    """Enrollment request: labels of all images alike, or of each image."""

    attributes: FormAttributes = Field(default={}, description="Further labels, as a JSON object.")
    records: Json[list[ItemLabels]] | None = Field(default=None, description="Labels of each image in order, as a JSON list.")
    update: bool = Field(default=False, description="Replace the labels of images that are enrolled already.")

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
    """New labels of a record: omitted labels and attributes are kept, and null makes a label unknown."""

    def labels(self) -> RecordLabels:
        """Return what was given."""
        return cast(RecordLabels, self.model_dump(exclude_unset=True))


class UpdatePerson(_Form):
    """New identity of a person; if it has records already, the two are merged."""

    pid: Identity | None = Field(description="Identity, a number or a name; null if unknown.", examples=["alice"])


class MakeGallery(_Form):
    """Gallery to create."""

    name: GalleryName = Field(description="Name of the gallery.", examples=["people"])


class Problem(BaseModel):
    """Error response."""

    detail: str = Field(description="Cause of the error and its remedy.")
    request_id: str = Field(description="Id of the request in the service's log.")


class Embeddings(BaseModel):
    """Embeddings."""

    embeddings: list[list[float]] = Field(description="Unit vectors, one for each image, in order.", examples=[[[0.6, 0.8]]])
    embed_dim: int = Field(description="Width of an embedding.", examples=[2])
    fingerprint: str = Field(description="Fingerprint of the model: embeddings of different fingerprints must not be compared.")


class RecordInfo(BaseModel):
    """Record of a gallery."""

    id: int
    source: str
    pid: int | str | None
    camid: int | None
    time_s: float | None
    attributes: dict[str, AttributeValue]
    enrolled_s: float
    content_hash: str


class MatchInfo(RecordInfo):
    """Match: a record with its similarity."""

    similarity: float = Field(description="Cosine similarity in [-1, 1], larger is closer.")
    distance: float | None = Field(default=None, description="Re-ranked distance, smaller is closer, if requested.")
    rank_before: int | None = Field(default=None, description="Rank from 1 by similarity alone, if re-ranking was requested.")


class QueryResult(BaseModel):
    """Matches of one query."""

    query: str = Field(description="Name of the image or record.", examples=["a.jpg"])
    matches: list[MatchInfo]


class SearchResults(BaseModel):
    """Search response."""

    gallery: str
    results: list[QueryResult]


class ModelInfo(BaseModel):
    """Model of the service."""

    name: str
    precision: str
    embed_dim: int
    image_size: list[int] = Field(description="[height, width] to which images are resized.", examples=[[256, 128]])
    fingerprint: str


class GalleryInfo(BaseModel):
    """Counts and model of a gallery."""

    name: str
    num_records: int
    num_people: int = Field(description="Number of known identities.")
    num_cameras: int = Field(description="Number of known cameras.")
    num_without_pid: int
    first_seen_s: float | None
    last_seen_s: float | None
    read_only: bool
    model: str = Field(description="Name of the model that made its embeddings.")
    fingerprint: str


class GalleryList(BaseModel):
    """Names of all galleries."""

    galleries: list[str]


class RecordPage(BaseModel):
    """Page of a gallery's records, by ascending id."""

    records: list[RecordInfo]
    num_matching: int = Field(description="Number of all records that pass the filter.")
    next_after_id: int | None = Field(description="`after_id` of the next page; null on the last one.")


class ImageNote(BaseModel):
    """Message about an image."""

    source: str
    reason: str


class EnrollResult(BaseModel):
    """Result of an enrollment."""

    ids: list[int] = Field(description="Ids of the images that were added or enrolled already, in order.")
    num_added: int
    num_known: int
    num_updated: int = Field(description="Number of enrolled images whose labels were changed.")
    conflicts: list[ImageNote] = Field(description="Known images whose labels differ from those given; they kept theirs.")
    bad: list[ImageNote] = Field(description="Images that could not be used.")


class NumUpdated(BaseModel):
    """Number of changed records."""

    num_updated: int


class NumRemoved(BaseModel):
    """Number of removed records."""

    num_removed: int
