-- check_rights: which of some commands the user may not call. It calls none of them.
-- KEYS     1 run (of nobody)
-- ARGV     1.. how many words follow, the words of a command, ...
-- MOVES    none
-- RETURNS  list of the numbers of the commands that the user may not call; none before Redis 7.0, which cannot be asked
local refused, number, at = {}, 0, 1
while redis.acl_check_cmd and at < #ARGV do
  local last = at + ARGV[at]
  local known, may = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, last)) -- an error: the server has no such command
  number, at = number + 1, last + 1
  if known and not may then refused[#refused + 1] = number end
end
return refused
