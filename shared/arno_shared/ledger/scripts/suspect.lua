-- An image is about to run alone in a worker. ARGV: index.attempt/position, token.
-- Returns how often it was begun so without an end, this time included.
even_when_full()
return count_beginning(ARGV[1], ARGV[2])
