-- ack_message: take a message that was delivered off the stream; a child whose end it told is kept for its retention now.
-- USES     clock jobs waits state concurrency runs invokes
-- KEYS     1 finished
-- ARGV     1 message  2 child ('': it told no end)
-- MOVES    none
-- RETURNS  1 DROPPED, 0 ALREADY
if ARGV[2] == '' then return drop_entry(ARGV[1]) and 1 or 0 end
drop_finished(ARGV[2], ARGV[1], redis.call('HGET', RUN .. ARGV[2], 'keep_ms'))
return 1
