-- clock: the time of the Redis server is the only clock. Tests pass their own time.

-- the argument now_ms (0: the time of the server) -> milliseconds since the epoch
local function clock(now_ms)
  local given = tonumber(now_ms)
  if given > 0 then return given end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local AHEAD_MS = 5000 -- after a failover the clock may be behind times that the former server has noted, by less than this

-- whether a time that was noted as the present one is impossible: the clock was ahead then, and has been set back. Such
-- a time is treated as now.
local function is_ahead(noted_ms, now)
  return noted_ms and tonumber(noted_ms) - now > AHEAD_MS or false
end

local iso_ms, iso_text

-- milliseconds since the epoch -> the ISO 8601 text that RQ stores. The last result is cached: a script uses one time
-- often.
local function iso8601(ms)
  if ms == iso_ms then return iso_text end
  local seconds = math.floor(ms / 1000)
  local days, rest = math.floor(seconds / 86400), seconds % 86400
  local z = days + 719468 -- civil date from days, with years that start in March
  local era = math.floor(z / 146097)
  local day_of_era = z - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local month_index = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * month_index + 2) / 5) + 1
  local month = month_index < 10 and month_index + 3 or month_index - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  iso_ms = ms
  iso_text = string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d000Z', year, month, day, math.floor(rest / 3600),
    math.floor(rest / 60) % 60, rest % 60, ms % 1000)
  return iso_text
end
