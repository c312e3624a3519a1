-- ack_message: delete a delivered message from the stream. The retention of an ended child starts now.
-- USES     clock jobs waits state concurrency attempts indexes runs invokes
-- KEYS     1 finished
-- ARGV     1 message  2 child ('': the message was about no end)
-- MOVES    none
-- RETURNS  1 DELETED, 0 ALREADY
if ARGV[2] == '' then return ack_entry(ARGV[1]) and 1 or 0 end
ack_finished(ARGV[2], ARGV[1], redis.call('HGET', RUN .. ARGV[2], 'keep_ms'))
return 1
