"""What a folder with a Florence-2 holds, said from its headers: nothing here needs torch, or reads a weight.

Both sides come in: workers load what stands here in words of numbers, and the `arno` command says what it is.
"""
