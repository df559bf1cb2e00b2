-- An image is about to run alone in a worker. A: index.attempt/position, the holder's tag.
-- Returns how often it was begun so without an end, this time included.
even_when_full()
return count_beginning(A[1], A[2])
