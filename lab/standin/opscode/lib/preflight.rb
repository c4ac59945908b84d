# frozen_string_literal: true

# What Chef's own validators look at before anything is changed, with the codes of their messages.
class Preflight
  OLDEST_POSTGRESQL = 9.6
  DATABASES = %w[opscode_chef bifrost oc_id bookshelf].freeze
  ROLES = DATABASES.flat_map { |name| [name, "#{name}_ro"] }.freeze
  QUEUE_MODES = %w[batch inline].freeze

  def initialize(settings, backend)
    @settings = settings
    @backend = backend
  end

  # Needs nobody else.
  def configuration
    pg = @settings.postgresql
    fail_with 'CSPG000', "postgresql['external'] is not true, and the stand-in has no PostgreSQL of its own" unless pg['external']
    fail_with 'CSPG004', "postgresql['vip'] is not set" unless pg['vip']
    fail_with 'CSPG002', "postgresql['db_superuser'] is not set" unless pg['db_superuser']
    fail_with 'CSPG003', "postgresql['db_superuser_password'] is not set" unless pg['db_superuser_password']
    unless [nil, 'disable', 'require'].include?(pg['sslmode'])
      fail_with 'CSPG020', "postgresql['sslmode'] is neither disable nor require"
    end
    search
  end

  def search
    erchef = @settings.opscode_erchef
    if @settings.at('opensearch', 'external')
      unless erchef['search_auth_username'] && erchef['search_auth_password']
        fail_with 'OPENSEARCH006', "opscode_erchef['search_auth_username'] or ['search_auth_password'] is missing"
      end
      fail_with 'OPENSEARCH007', "opensearch['external_url'] is missing" unless @settings.opensearch['external_url']
      queue_mode('OPENSEARCH008')
    elsif @settings.opscode_solr4['external'] || @settings.at('elasticsearch', 'external')
      fail_with 'INDEX005', "elasticsearch['enable'] is not false" if internal_elasticsearch?
      queue_mode('INDEX007')
    else
      fail_with 'INDEX000', 'no external search is configured, and the stand-in has none of its own'
    end
  end

  def queue_mode(code)
    erchef = @settings.opscode_erchef
    return if erchef['search_provider'].nil? || QUEUE_MODES.include?(erchef['search_queue_mode'])

    fail_with code, "opscode_erchef['search_queue_mode'] is neither batch nor inline"
  end

  def postgresql(first_run:, secrets:)
    reachable
    superuser
    version
    absent if first_run && !secrets
  rescue Backend::Refused => e
    fail_with 'CSPG011', "could not authenticate as #{@backend.superuser}: #{e.message}" if e.message =~ /authentication failed/
    fail_with 'CSPG012', "no entry in pg_hba.conf: #{e.message}" if e.message =~ /no pg_hba.conf entry/
    fail_with 'CSPG999', e.message
  end

  private

  # A log-in that must fail, and in one of three ways only.
  def reachable
    @backend.query('select 1', user: 'chef_server_conn_test', password: 'wrong')
    fail_with 'CSPG999', 'anybody can log in'
  rescue Backend::Refused => e
    return if e.message =~ /password authentication failed|no pg_hba.conf entry|role .* does not exist/

    fail_with 'CSPG010', "no connection to #{@settings.postgresql['vip']}: #{e.message}" if e.message =~ /refused/
    fail_with 'CSPG999', e.message
  end

  def superuser
    rights = @backend.query("select rolsuper, rolcreaterole and rolcreatedb from pg_roles where rolname = current_user").first
    fail_with 'CSPG013', "#{@backend.superuser} is no superuser" unless rights.include?('t')
  end

  def version
    text = @backend.value('show server_version')
    found = text[/\A\d+(\.\d+)?/].to_f
    newest = Integer(ENV.fetch('CHEF_STANDIN_POSTGRESQL', Places.at_least?('15.10.117') ? 14 : 13))
    return if found >= OLDEST_POSTGRESQL && found.floor <= newest

    fail_with 'CSPG014', "PostgreSQL #{OLDEST_POSTGRESQL} to #{newest} is required, the database is #{text}"
  end

  def absent
    databases = @backend.query('select datname from pg_database').flatten & DATABASES
    # a backend that another front end has bootstrapped is told apart, as Chef's own does
    fail_with 'BOOT010', "duplicate pivotal user: the superuser 'pivotal' already exists in the database" if Bootstrap.pivotal?(@backend)
    fail_with 'CSPG016', "the database #{databases.first} exists already" unless databases.empty?
    roles = @backend.query('select rolname from pg_roles').flatten & ROLES
    fail_with 'CSPG017', "the role #{roles.first} exists already" unless roles.empty?
  end

  def internal_elasticsearch?
    return false if @settings.use_chef_backend || !Places.at_least?('13')

    @settings.elasticsearch['enable'] != false
  end

  def fail_with(code, sentence)
    raise Failure, "#{code}: #{sentence}"
  end
end
