"""A small world of coloured shapes and short words, drawn for training, tests and demonstrations."""

from arno_shared.scenes.answers import answer
from arno_shared.scenes.drawing import draw
from arno_shared.scenes.scene import Box, Scene, SceneObject, SceneWord, make_scene
from arno_shared.scenes.scoring import matches

__all__ = ["Box", "Scene", "SceneObject", "SceneWord", "answer", "draw", "make_scene", "matches"]
