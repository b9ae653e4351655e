"""The architectures: every way in which a clip becomes visual tokens, one record each.

A new architecture takes a record here, a class in `fvlm/models/` and a test. Everything that lists
architectures (configurations, names of cells, FLOP counts, figures, findings) reads these records. Nothing
heavy is imported here, so that a name can be checked and a figure coloured without loading torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """What can be known of an architecture without loading its class."""

    name: str  # the value of RunConfig.arch, and in the results of every run
    short: str  # in the name of a cell, S-S_8f_fov; lower-case letters and digits
    model: str  # its class, "module:Class": see fvlm.models.model_class
    tokens_per_frame: int  # visual tokens that the LLM reads; a model that makes another number raises
    has_queries: bool  # looks at each frame through queries, whose attention shows where
    control: bool  # is only there to be compared with
    colour: str  # in every figure; from Okabe and Ito's palette, told apart by colour-blind readers too
    description: str  # what the LLM gets of the frames; findings put it after "beside"


RECORDS = (  # in the order in which tables show them
    Architecture(
        name="foveated",
        short="fov",
        model="fvlm.models.foveated:FoveatedVLM",
        tokens_per_frame=1,
        has_queries=True,
        control=False,
        colour="#0072B2",
        description="one token a frame, through a query made of the LLM's state after the frame before",
    ),
    Architecture(
        name="baseline",
        short="bas",
        model="fvlm.models.baseline:BaselineVLM",
        tokens_per_frame=16,
        has_queries=False,
        control=False,
        colour="#D55E00",
        description="16 tokens a frame, made of all patches as in SmolVLM",
    ),
    Architecture(
        name="static",
        short="sta",
        model="fvlm.models.foveated:StaticVLM",
        tokens_per_frame=1,
        has_queries=True,
        control=True,
        colour="#009E73",
        description="one static query for every frame",
    ),
    Architecture(
        name="meanpool",
        short="avg",
        model="fvlm.models.baseline:MeanPoolVLM",
        tokens_per_frame=1,
        has_queries=False,
        control=True,
        colour="#CC79A7",
        description="the mean of all patches, as many tokens",
    ),
    Architecture(
        name="blind",
        short="bli",
        model="fvlm.models.baseline:BlindVLM",
        tokens_per_frame=0,
        has_queries=False,
        control=True,
        colour="#7F7F7F",
        description="no visual token",
    ),
    # The number of tokens and the way of making them, apart: several queries, and means of several parts.
    Architecture(
        name="foveated4",
        short="f04",
        model="fvlm.models.foveated:FoveatedVLM",
        tokens_per_frame=4,
        has_queries=True,
        control=False,
        colour="#56B4E9",
        description="4 tokens a frame, through as many learned offsets on the LLM's query",
    ),
    Architecture(
        name="foveated16",
        short="f16",
        model="fvlm.models.foveated:FoveatedVLM",
        tokens_per_frame=16,
        has_queries=True,
        control=False,
        colour="#000000",
        description="16 tokens a frame, through as many learned offsets on the LLM's query",
    ),
    Architecture(
        name="meanpool4",
        short="a04",
        model="fvlm.models.baseline:MeanPoolVLM",
        tokens_per_frame=4,
        has_queries=False,
        control=False,
        colour="#E69F00",
        description="the means of a frame's 2 x 2 parts, 4 tokens a frame",
    ),
    Architecture(
        name="meanpool16",
        short="a16",
        model="fvlm.models.baseline:MeanPoolVLM",
        tokens_per_frame=16,
        has_queries=False,
        control=False,
        colour="#A6761D",
        description="the means of a frame's 4 x 4 parts, 16 tokens a frame",
    ),
)

ARCHITECTURES = {record.name: record for record in RECORDS}
ARCH_OF_SHORT = {record.short: record.name for record in RECORDS}
CONTROLS = tuple(record.name for record in RECORDS if record.control)
WITH_QUERIES = tuple(record.name for record in RECORDS if record.has_queries)
