-- signals: what a run was sent and no wait has received yet, in the order of arrival.
-- The hash has the fields `<number>`: a signal; `queue <name>`: the numbers of the signals of this name, oldest first, each
-- with a space behind it; `count` and `bytes`: the last number, and the size of all; `waits`: the last number of a wait. The
-- run's field `signals` is how many are kept. A run without that field was sent none, and has begun no wait for one.

local MAX_SIGNALS = 1000 -- that are kept of a run
local MAX_SIGNAL_BYTES = 4194304 -- the size of all of them

-- what a run keeps already so that one more signal cannot be kept; nil: it can
local function full_of(run, was, size)
  if tonumber(was.signals or 0) >= MAX_SIGNALS then return MAX_SIGNALS .. ' signals' end
  local bytes = redis.call('HGET', SIGNALS .. run, 'bytes') or 0
  return bytes + size > MAX_SIGNAL_BYTES and bytes .. ' of ' .. MAX_SIGNAL_BYTES .. ' bytes of signals' or nil
end

-- keep a signal until a wait for its name begins
local function keep_signal(run, was, name, signal)
  local hash, queue = SIGNALS .. run, 'queue ' .. name
  local number = redis.call('HINCRBY', hash, 'count', 1)
  redis.call('HSET', hash, number, signal, queue, (redis.call('HGET', hash, queue) or '') .. number .. ' ')
  redis.call('HINCRBY', hash, 'bytes', #signal)
  redis.call('HSET', RUN .. run, 'signals', tonumber(was.signals or 0) + 1)
end

-- take the oldest signal of a name -> the signal; nil: none is kept
local function take_signal(run, was, name)
  local hash, queue = SIGNALS .. run, 'queue ' .. name
  local number, others = string.match(redis.call('HGET', hash, queue) or '', '^(%d+) (.*)$')
  if not number then return end
  local signal = redis.call('HGET', hash, number)
  redis.call('HDEL', hash, number)
  if others == '' then redis.call('HDEL', hash, queue) else redis.call('HSET', hash, queue, others) end
  redis.call('HINCRBY', hash, 'bytes', -#signal)
  redis.call('HSET', RUN .. run, 'signals', tonumber(was.signals) - 1)
  return signal
end

-- the index of a wait for a signal. Its number says which wait of a run has begun first.
local function signal_index(run, was, name)
  if not was.signals then redis.call('HSET', RUN .. run, 'signals', 0) end
  return 'signal\n' .. redis.call('HINCRBY', SIGNALS .. run, 'waits', 1) .. '\n' .. name
end

-- the wait for a signal of this name that has begun first -> step key, index; nil: there is none
local function first_signal_wait(run, name)
  local fields, key, index, first = redis.call('HGETALL', STEPS .. run), nil, nil, math.huge
  for i = 1, #fields, 2 do
    local of = string.match(fields[i], '^(%x+):index$')
    local number, wanted = string.match(of and fields[i + 1] or '', '^signal\n(%d+)\n(.*)$')
    if wanted == name and tonumber(number) < first then key, index, first = of, fields[i + 1], tonumber(number) end
  end
  return key, index
end

-- the memo of a wait that a signal has ended; `detail` is the rest of the memo
local function memo_of_signal(signal, now, detail)
  return '{"data":' .. signal .. ',"outcome":"came","ended_at":' .. now .. ',' .. detail
end
