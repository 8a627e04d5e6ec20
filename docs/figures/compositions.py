"""Draw what the bundled model of scenes paints for eight prompts.

    python docs/figures/compositions.py

Each row shows seeds 0 to 5. The rows of a pair differ only in the order of words.
"""

from labelled import save_sheet, shrink

from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet

PROMPTS = (
    "a red apple and a green car",
    "a green apple and a red car",
    "a dog left of a cat",
    "a cat left of a dog",
    "a heart above a star",
    "a star above a heart",
    "three blue cars",
    "two penguins in the snow",
)
DRAWS = 6


def main() -> None:
    sheet, _ = paint_sheet(SamplingRequest(model="scenes", prompts=PROMPTS, n=DRAWS))
    save_sheet(sheet.images, "compositions", PROMPTS, [f"seed {i}" for i in range(DRAWS)])
    shrink("compositions")


if __name__ == "__main__":
    main()
