"""`/v1/tasks`: the catalogue of prompts."""

from fastapi import APIRouter
from pydantic import BaseModel

from arno_producer.http.problems import responses
from arno_shared.prompts import TASKS


class TaskView(BaseModel):
    task: str
    takes: str
    """nothing, a text, or a region: x1, y1, x2, y2 in pixels of the upright picture."""
    answer: str
    """The shape of the parsed answer."""
    max_new_tokens: int
    """How long an answer may get, unless the job says otherwise."""


class TaskList(BaseModel):
    tasks: list[TaskView]


def tasks() -> APIRouter:
    router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

    @router.get("", summary="What may be asked of a picture", responses=responses())
    def catalogue() -> TaskList:
        """What may be asked of a picture."""
        return TaskList(
            tasks=[
                TaskView(
                    task=task.token,
                    takes=task.takes.value,
                    answer=task.answer.value,
                    max_new_tokens=task.max_new_tokens,
                )
                for task in TASKS.values()
            ]
        )

    return router
