# frozen_string_literal: true

# Roles, databases and the user pivotal, made once for all front ends.
class Bootstrap
  # role => (group, name) of its password
  PASSWORDS = {
    'opscode_chef' => %w[opscode_erchef sql_password], 'opscode_chef_ro' => %w[opscode_erchef sql_ro_password],
    'bifrost' => %w[oc_bifrost sql_password], 'bifrost_ro' => %w[oc_bifrost sql_ro_password],
    'oc_id' => %w[oc_id sql_password], 'oc_id_ro' => %w[oc_id sql_ro_password],
    'bookshelf' => %w[bookshelf sql_password], 'bookshelf_ro' => %w[bookshelf sql_ro_password]
  }.freeze

  def self.pivotal?(backend)
    return false unless backend.value("select 1 from pg_database where datname = 'opscode_chef'")

    backend.value("select count(*) from users where username = 'pivotal'", database: 'opscode_chef') == '1'
  rescue Backend::Refused
    false # the table is not there yet
  end

  def self.run(backend, secrets)
    PASSWORDS.each { |role, (group, name)| make_role(backend, role, secrets.fetch(group).fetch(name)) }
    Preflight::DATABASES.each { |name| make_database(backend, name) }
    backend.query('create table if not exists users (username text primary key); grant select on users to opscode_chef',
                  database: 'opscode_chef')
    backend.query("insert into users values ('pivotal')", database: 'opscode_chef')
  rescue Backend::Refused => e
    raise Failure, "duplicate pivotal user: #{e.message}" if e.message =~ /duplicate key/

    raise Failure, "the databases could not be made: #{e.message}"
  end

  def self.make_role(backend, role, password)
    return if backend.value("select 1 from pg_roles where rolname = '#{role}'")

    backend.query("create role #{role} with login password '#{password}'")
  end

  def self.make_database(backend, name)
    return if backend.value("select 1 from pg_database where datname = '#{name}'")

    backend.query("create database #{name} owner #{name} template template0 encoding 'UTF8'")
  end
end
