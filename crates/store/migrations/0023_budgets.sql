-- What a key, a team or a user may spend by themselves, as JSON; NULL: nothing is said.
ALTER TABLE keys ADD COLUMN budget TEXT;
ALTER TABLE principals ADD COLUMN budget TEXT;

-- What one of them spent is asked for when they are given a budget.
CREATE INDEX usage_sums_by_principal ON usage_sums (principal, slot_ms);
