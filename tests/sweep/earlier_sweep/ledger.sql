BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'sweep');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,3,5.48720753476733236198e+00,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,6,5.39752583560489451741e+00,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,2,3,5.41310206481388611621e+00,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'optimizer.lr',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.01, 0.02, 0.03]}}');
INSERT INTO "trial_params" VALUES(2,2,'optimizer.lr',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.01, 0.02, 0.03]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"optimizer.lr": 0.01}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"optimizer.lr": 0.02}');
INSERT INTO "trial_system_attributes" VALUES(3,3,'fixed_params','{"optimizer.lr": 0.03}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'point','0');
INSERT INTO "trial_user_attributes" VALUES(2,1,'seed','123');
INSERT INTO "trial_user_attributes" VALUES(3,1,'overrides','["optimizer.lr=0.01"]');
INSERT INTO "trial_user_attributes" VALUES(4,2,'point','1');
INSERT INTO "trial_user_attributes" VALUES(5,2,'seed','123');
INSERT INTO "trial_user_attributes" VALUES(6,2,'overrides','["optimizer.lr=0.02"]');
INSERT INTO "trial_user_attributes" VALUES(7,3,'point','2');
INSERT INTO "trial_user_attributes" VALUES(8,3,'seed','123');
INSERT INTO "trial_user_attributes" VALUES(9,3,'overrides','["optimizer.lr=0.03"]');
INSERT INTO "trial_user_attributes" VALUES(10,1,'worker','"elsewhere:6845:48476"');
INSERT INTO "trial_user_attributes" VALUES(11,1,'alive','0.0');
INSERT INTO "trial_user_attributes" VALUES(12,1,'folder','"0_optimizer.lr-0.01"');
INSERT INTO "trial_user_attributes" VALUES(13,1,'config','"d3cbac44b1da345d"');
INSERT INTO "trial_user_attributes" VALUES(14,1,'metrics','{"train/loss": 5.386790581047535, "train/perplexity": 218.50099778512617, "train/bits_per_byte": 7.771496057584656, "val/loss": 5.3975258356048945, "val/perplexity": 220.85929744234545, "val/bits_per_byte": 7.78698375609724, "best/train/loss": 5.386790581047535, "best/train/perplexity": 218.50099778512617, "best/train/bits_per_byte": 7.771496057584656, "best/val/loss": 5.3975258356048945, "best/val/perplexity": 220.85929744234545, "best/val/bits_per_byte": 7.78698375609724, "tokens": 192.0, "steps": 6.0, "seconds": 7.293150428999979}');
INSERT INTO "trial_user_attributes" VALUES(15,1,'seconds','7.293150428999979');
INSERT INTO "trial_user_attributes" VALUES(16,1,'error','null');
INSERT INTO "trial_user_attributes" VALUES(17,2,'worker','"elsewhere:6845:48476"');
INSERT INTO "trial_user_attributes" VALUES(18,2,'alive','0.0');
INSERT INTO "trial_user_attributes" VALUES(19,2,'folder','"1_optimizer.lr-0.02"');
INSERT INTO "trial_user_attributes" VALUES(20,2,'config','"5ec3e57905d39c36"');
INSERT INTO "trial_user_attributes" VALUES(22,2,'seconds','2.7075205580000556');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,5.39752583560489451741e+00,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-27 14:30:17.222169','2026-11-27 14:30:24.808981');
INSERT INTO "trials" VALUES(2,1,1,'RUNNING','2026-11-27 14:30:24.823809',NULL);
INSERT INTO "trials" VALUES(3,2,1,'WAITING',NULL,NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
