"""The tasks that Florence-2 knows, by the token that asks for them."""

from typing import Final

from arno_shared.prompts import TASKS, Takes

CAPTION: Final = "<CAPTION>"
DETAILED_CAPTION: Final = "<DETAILED_CAPTION>"
MORE_DETAILED_CAPTION: Final = "<MORE_DETAILED_CAPTION>"
OD: Final = "<OD>"
DENSE_REGION_CAPTION: Final = "<DENSE_REGION_CAPTION>"
REGION_PROPOSAL: Final = "<REGION_PROPOSAL>"
OCR: Final = "<OCR>"
OCR_WITH_REGION: Final = "<OCR_WITH_REGION>"
CAPTION_TO_PHRASE_GROUNDING: Final = "<CAPTION_TO_PHRASE_GROUNDING>"
REFERRING_EXPRESSION_SEGMENTATION: Final = "<REFERRING_EXPRESSION_SEGMENTATION>"
REGION_TO_SEGMENTATION: Final = "<REGION_TO_SEGMENTATION>"
OPEN_VOCABULARY_DETECTION: Final = "<OPEN_VOCABULARY_DETECTION>"
REGION_TO_CATEGORY: Final = "<REGION_TO_CATEGORY>"
REGION_TO_DESCRIPTION: Final = "<REGION_TO_DESCRIPTION>"
REGION_TO_OCR: Final = "<REGION_TO_OCR>"

PLAIN_TASKS: Final = tuple(task.token for task in TASKS.values() if task.takes is Takes.NOTHING)
TEXT_TASKS: Final = tuple(task.token for task in TASKS.values() if task.takes is Takes.TEXT)
REGION_TASKS: Final = tuple(task.token for task in TASKS.values() if task.takes is Takes.REGION)
ALL_TASKS: Final = tuple(TASKS)
