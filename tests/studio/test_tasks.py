"""The tasks that the studio offers."""

from limner.contract.image import ImageSpec
from limner.contract.text import text_spec
from limner.diffusion.best_of_n import BestOfN
from limner.studio.tasks import tasks_of


def test_a_task_that_the_base_of_a_model_cannot_do_is_not_offered():
    def names(base: str, **options: int) -> set[str]:
        config = {"base": {"model": base, "config": options}}
        return {*tasks_of(BestOfN, ImageSpec(3, 16, 16, text=text_spec()), config)}

    assert names("gan") == {"paint", "walk"}
    assert names("flow-matching") == {"paint", "walk", "edit", "reword", "attention"}
    assert names("flow-matching", attention=0) == {"paint", "walk", "edit"}
