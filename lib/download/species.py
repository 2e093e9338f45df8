"""Load the invented species of the sample from `species.yaml`, and compute the patterns on their wings.

A pattern is a signed distance on the texture of a wing: positive inside the painted area, negative outside.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from pydantic import ConfigDict, Field, model_validator

from lib.core.schema import Section

FILE = Path(__file__).with_name("species.yaml")

Point = tuple[float, float]
Hex = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
Role = Literal["root", "edge", "dark", "light", "accent"]


@dataclass(frozen=True)
class Wing:
    """Coordinates of each pixel on the texture of one wing.

    Attributes:
        opacity: 0 outside the outline, 1 inside, antialiased. The arrays are `float32` of shape
            `(height, width)`.
        margin: distance to the outline, in units; 0 outside.
        along: distance from the root: 0 at the root, about 1 at the outer margin.
        across: direction from the root: 0 at the hind margin, 1 at the front margin.
        arc: length of the arc around the root from the hind to the front margin, in units.
        scale: factor of the widths and radii of the pattern, which differs between individuals.
    """

    opacity: np.ndarray
    margin: np.ndarray
    along: np.ndarray
    across: np.ndarray
    arc: np.ndarray
    scale: float

    def offset(self, count: int) -> np.ndarray:
        """Compute the signed distance to the centre of the nearest of `count` equal sectors, in units."""
        return ((self.across * count) % 1 - 0.5) / count * self.arc


class Layer(Section):
    """A pattern in one of the species' colours."""

    colour: Role


class Border(Layer):
    """A border along the outline; its width at the root is 30 % of `width`."""

    pattern: Literal["border"]
    width: float = Field(gt=0, description="width at the outer edge, in units")

    def signed_distance(self, wing: Wing) -> np.ndarray:
        """Compute the signed distance to the edge of the border, `float32` of shape `(height, width)`."""
        return self.width * wing.scale * (0.3 + 0.7 * wing.along) - wing.margin


class Band(Layer):
    """A wavy band at a constant distance from the root."""

    pattern: Literal["band"]
    at: float = Field(ge=0, le=1, description="centre of the band, 0 at the root and 1 at the outline")
    width: float = Field(gt=0, description="distance from the centre of the band to its edges")

    def signed_distance(self, wing: Wing) -> np.ndarray:
        """Compute the signed distance to the edges of the band, `float32` of shape `(height, width)`."""
        wave = 0.02 * np.sin(14 * wing.across)
        return self.width * wing.scale - abs(wing.along - self.at - wave)


class Checks(Layer):
    """A checkerboard of rings around the root and rays from the root."""

    pattern: Literal["checks"]
    rings: float = Field(ge=0, description="approximate number of periods from root to outline; 0: rays only")
    rays: float = Field(gt=0, description="approximate number of periods from hind to front margin")

    def signed_distance(self, wing: Wing) -> np.ndarray:
        """Compute a wave that is positive on the painted squares, `float32` of shape `(height, width)`."""
        return 0.06 * np.cos(6 * self.rings * wing.along) * np.sin(6 * self.rays * wing.across)


class Dots(Layer):
    """A row of round dots at a constant distance from the root."""

    pattern: Literal["dots"]
    count: int = Field(ge=1)
    at: float = Field(ge=0, le=1, description="centres of the dots, 0 at the root and 1 at the outline")
    radius: float = Field(gt=0, description="radius in units")

    def signed_distance(self, wing: Wing) -> np.ndarray:
        """Compute the signed distance to the edge of a dot, `float32` of shape `(height, width)`."""
        return self.radius * wing.scale - np.hypot(wing.along - self.at, wing.offset(self.count))


class Veins(Layer):
    """Lines from the root to the outline."""

    pattern: Literal["veins"]
    count: int = Field(ge=1)
    width: float = Field(gt=0, description="distance from the centre of a vein to its edges, in units")

    def signed_distance(self, wing: Wing) -> np.ndarray:
        """Compute the signed distance to the edge of a vein, `float32` of shape `(height, width)`."""
        return self.width - abs(wing.offset(self.count))


Pattern = Annotated[Border | Band | Checks | Dots | Veins, Field(discriminator="pattern")]


class Colours(Section):
    """The colours of a species; a wing has a gradient from `root` at the body to `edge` at its outline."""

    root: Hex
    edge: Hex
    dark: Hex
    light: Hex
    accent: Hex


class Species(Section):
    """The wings of a species: the names of their outlines, the colours, and the layers in drawing order."""

    forewing: str
    hindwing: str
    colours: Colours
    layers: list[Pattern]


class Leaves(Section):
    """Leaves, petals, stones or blades of grass, with their number, mean size in pixels and colours."""

    count: int = Field(ge=0)
    length: float = Field(gt=0)
    width: float = Field(gt=0)
    colours: list[Hex] = Field(min_length=1)


class Background(Section):
    """Noise between two colours, and the leaves on it."""

    dark: Hex
    light: Hex
    noise_cells: tuple[int, int]
    leaves: Leaves


class Catalogue(Section):
    """The content of `species.yaml`: species and backgrounds by name, in the order of the file."""

    model_config = ConfigDict(title=FILE.name)

    outlines: dict[str, Annotated[list[Point], Field(min_length=3)]]
    species: dict[str, Species] = Field(min_length=1)
    backgrounds: dict[str, Background] = Field(min_length=1)
    covering_leaves: list[Hex] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_outlines(self) -> Self:
        for name, species in self.species.items():
            for outline in (species.forewing, species.hindwing):
                if outline not in self.outlines:
                    raise ValueError(
                        f"species `{name}`: expected an outline of {', '.join(self.outlines)}. "
                        f"Received: {outline}. Add it to `outlines` or correct its name"
                    )
        return self


def load(path: Path = FILE) -> Catalogue:
    """Load the catalogue of species.

    Raises:
        ValueError: if the file has an unknown pattern, key, colour or outline, or a value out of range; the
            message names it.
    """
    return Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
