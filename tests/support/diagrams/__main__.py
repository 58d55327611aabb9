"""``make diagrams``: write the pictures in ``docs/images``, and the tables of pages that follow from the code."""

from tests.support.diagrams.pictures import PICTURES
from tests.support.diagrams.tables import PARTS
from tests.support.page_parts import DOCS, write_part


def main() -> None:
    for name, make in PICTURES.items():
        (DOCS / "images" / f"{name}.svg").write_text(make().svg())
    for page, name, make_text in PARTS:
        write_part(page, name, make_text())


if __name__ == "__main__":
    main()
