"""A process that calls functions, and runs their kernels in Triton's interpreter.

Of its own, because Triton decides when it is imported whether it interprets, and transformers imports it. Calls come
as pickles on standard input, (function, arguments); answers go to standard output: (result, arguments, error).
"""

import os
import pickle
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl


def mend_bfloat16() -> None:
    """NumPy has none: as it is, the interpreter cuts where a device rounds, and `tl.dot` multiplies the bits."""
    cast, multiply = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_impl(self: Any, x: Any, wanted: Any) -> Any:
        kinds = x.dtype.scalar, wanted.scalar
        if kinds == (tl.float32, tl.bfloat16):
            bits = x.data.view(np.uint32)
            return TensorHandle(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return TensorHandle((x.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
        return cast(self, x, wanted)

    def create_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        wide = [cast_impl(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (left, right)]
        return multiply(self, *wide, *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast_impl, create_dot


def mend_loops() -> None:
    """A bound that is computed is an array of one, which NumPy since 2.4 does not take for a number."""
    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch


def main() -> None:
    torch.set_num_threads(1)
    # What functions print is no answer.
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    mend_bfloat16()
    mend_loops()
    while True:
        try:
            function, given = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = function(*given), given, None
        except Exception as error:
            answer = None, given, error
        pickle.dump(answer, answers)
        answers.flush()


main()
