"""Image files of an export, each copied once and unchanged."""

from pathlib import Path

from segzero.data.readers.pictures import image_size
from segzero.errors import UserError
from segzero.images import READERS, image_key
from segzero.io import write_atomically
from segzero.sample import Sample


class Pictures:
    """Folder of the images of an export."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, str] = {}  # image_key -> file name
        self.taken: set[str] = set()  # file names in lower case, as some file systems ignore case

    def add(self, sample: Sample) -> str:
        """Copy the sample's image unless it is there already; returns its file name in the folder."""
        image = sample.image
        key = image_key(image)
        source = Path(image) if isinstance(image, str) else image
        if key in self.names:
            return self.names[key]
        try:
            size = image_size(source)  # refuses files that are not images, which a path in the data may name
            content = source.read_bytes() if isinstance(source, Path) else source
        except OSError as error:
            raise UserError(f"its image cannot be read: {error.strerror or error}") from error
        if size != sample.size:
            raise UserError(f"its image is {size[0]}x{size[1]}, the sample says {sample.width}x{sample.height}")
        wanted = Path(source.name) if isinstance(source, Path) else Path(key[:16] + _suffix(content))
        name, number = wanted.name, 2
        while name.lower() in self.taken:
            name, number = f"{wanted.stem}_{number}{wanted.suffix}", number + 1
        write_atomically(self.folder / name, content)
        self.names[key] = name
        self.taken.add(name.lower())
        return name


def _suffix(content: bytes) -> str:
    reader = next(reader for magic, reader in READERS.items() if content.startswith(magic))
    return f".{str(reader.format).lower()}"
