-- For whom a key calls, as JSON: user, team, app, organization.
ALTER TABLE keys ADD COLUMN owner TEXT NOT NULL DEFAULT '{}';
